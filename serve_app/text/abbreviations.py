"""Lists the abbreviations that decide whether a full stop ends a sentence; knows nothing about scanning.

Keys are lower case, without the last full stop and without inner white space: ``z. B.`` is ``z.b``.
The lists were written by hand for speech. A listener does not notice when two sentences are joined, but does
notice a break in the middle of one, so the lists include doubtful words.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Final, NamedTuple

LAST_WORD_CHARACTERS: Final = 32
"""``last_word_of`` reads at most this much of the text before a full stop."""


@dataclass(frozen=True)
class Abbreviations:
    """The words of one language that may stand before a full stop, and the words that may follow it."""

    never_last: frozenset[str]
    """Abbreviations that never end a sentence: ``Dr.``, ``e.g.``"""

    sometimes_last: frozenset[str]
    """Abbreviations that end a sentence only before a word of ``starters``: ``Inc.``, ``p.m.``"""

    usually_last: frozenset[str]
    """Abbreviations that look like initialisms but end a sentence before any capital letter: ``a. C.``, ``и т. д.``"""

    before_number: frozenset[str]
    """Abbreviations if a digit follows, and ordinary words otherwise: ``No. 5``"""

    starters: frozenset[str]
    """Words that, if capitalised, begin a sentence and not a name."""

    has_ordinals: bool = False
    """A full stop makes a number of up to two digits an ordinal, as in German: ``am 12. Mai``"""

    ordinal_after: frozenset[str] = frozenset()
    """Words after which a number is such an ordinal even without ``has_ordinals``."""


def _language(
    *,
    never_last: str,
    sometimes_last: str,
    before_number: str,
    starters: str,
    usually_last: str = "",
    has_ordinals: bool = False,
) -> Abbreviations:
    return Abbreviations(
        never_last=frozenset(never_last.split()),
        sometimes_last=frozenset(sometimes_last.split()),
        usually_last=frozenset(usually_last.split()),
        before_number=frozenset(before_number.split()),
        starters=frozenset(starters.split()),
        has_ordinals=has_ordinals,
    )


_BY_LANGUAGE = {
    "english": _language(
        never_last="""
            adm approx brig capt cf cmdr col comdr dr e.g fr ft gen gov hon i.e insp lt maj messrs mr mrs ms msgr mt
            mx mme mlle pres prof pvt rep rev sen sgt st supt viz vs v.s ca
        """,
        sometimes_last="""
            a.m p.m al assn ave b.a b.c b.sc blvd bros co corp d.c dept est hrs inc jr llc ltd m.a m.d m.sc mfg
            mins ph.d plc rd sr u.k u.n u.s u.s.a univ
        """,
        before_number="""
            no nos n° nr p pp fig figs vol sec sect art arts ch chap eq ex ext tel ver jan feb mar apr jun jul aug
            sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun
        """,
        starters="""
            a after all also although and another anyway are as at be because before both but by did do does
            each even every finally first for from had has have he her here his how however i if in instead
            it its just let many maybe meanwhile more most my next no not now of on once one only or our
            people perhaps please she since so some sometimes still that the their then there these they this those
            though to today until was we were what when where whether which while who whose why with yes yet
            you your
        """,
    ),
    "german": _language(
        never_last="""
            a.d a.o abs abt adr allg amtl b.w bd bes betr bspw bzgl bzw ca d.h d.i dipl dr einschl entspr ev evtl
            exkl fa fr frl gem ges ggf ggfs h.c hist hl hr hrn hrsg i.a i.d.r i.e i.v ing ital inkl insb jur kap kath
            kfm lat lt m.e max med min mind mio mrd n.chr v.chr nat o.g pers pfr phil prof rel rer resp s.a s.o
            s.u sen sog st staatl städt str techn tel u.a u.u u.z urspr v.a verh vgl vorm z.b z.h z.hd z.t z.z zt zz
            zzgl
        """,
        sometimes_last="co dgl etc f ff jh jhd o.ä o.ä u.a.m u.dgl u.ä u.ä u.s.w u.v.m usf usw uvm ä",
        before_number="art aufl bl fig jan feb mär apr jun jul aug sep sept okt nov dez nr nrn par pos s ziff",
        starters="""
            aber alle allerdings als also am an auch auf aus außerdem bei bevor bis bitte da dabei dadurch dafür
            daher damals damit danach dann daran darauf darum das dass daß dazu dein deine dem den denn dennoch der
            des deshalb deswegen die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem einen
            einer eines einige er es etwas für gegen gestern haben hat hatte heute hier ich ihr ihre im in ist ja
            jede jeder jedes jedoch jetzt kann kein keine man manche mein meine mit morgen nach nachdem nein nicht
            noch nun nur ob obwohl oder ohne schließlich schon sehr sein seine seit sie sind so sobald sondern
            später trotz trotzdem über um und unser unsere unter viele vielleicht vom von vor während wann war
            warum was weil welche wenn wer werden wie wieder wir wird wo wurde zu zudem zum zunächst zur zwar
        """,
        has_ordinals=True,
    ),
    "french": _language(
        never_last="""
            adj av bd c.-à-d c.à.d cf dr drs env gal gén ill lt m mgr mlle mlles mm mme mmes mr mrs
            p.ex p.-s pr prof r.-v s.-e sr st ste vs ét éts
        """,
        usually_last="j.-c j-c",
        sometimes_last="a.m bros cie co inc jr ltd p.m s.a s.a.r.l s.a.s s.n.c",
        before_number="""
            art chap dép fig n n° no nos p pp par réf tél vol janv févr avr juil sept oct nov déc lun mar mer jeu
            ven sam dim éd
        """,
        starters="""
            ainsi alors après au aujourd aussi autre aux avant avec bien c ce cela celle celui cependant certains ces
            cet cette ceux chaque comme comment d dans de depuis des donc du durant elle elles en enfin ensuite est
            et hier il ils j je l la le les leur leurs lors lorsque ma mais malgré mes moi mon n ne non nos notre
            nous on or ou oui où par parce pendant peut plus plusieurs pour pourquoi pourtant puis puisque qu quand
            que quel quelle quelques qui quoi s sa sans selon ses si son sous sur ta tandis tes ton tous tout toute
            toutefois toutes tu un une vers voici voilà vos votre vous y à ça
        """,
    ),
    "spanish": _language(
        never_last="""
            admón admon arq atte aprox c.c cnel col d dna dña dpto dr dra dras dres ee exc excmo excma fr gral hno hnos
            ing lic ldo mons mt p.ej pbro prof profa sgto sr sra sras sres srta srtas st sta sto tte vs
        """,
        sometimes_last="""
            a.m avda av cía co depto ee.uu etcétera hs inc jr km ltda min p.m s.a s.l s.r.l ud uds uu vd vds
        """,
        usually_last="a.c d.c",
        before_number="""
            art arts ca cap fig no nro núm núms p pp pág págs párr párrf tel tfno tomo vol ene feb mar abr may jun jul
            ago sep sept oct nov dic lun mié jue vie sáb dom
        """,
        starters="""
            a actualmente además ahora al algunas algunos allí antes aquí así aunque aún bien bueno cada casi como
            con cuando cuál cuándo cuánto cómo de del desde después donde durante dónde e el ella ellas ellos en
            entonces entre era es esa ese eso esta estaba este esto estos está están fue gracias ha hace hasta hay
            hoy la las le les lo los luego me mi mientras muchos muy más nada ni no nos nosotros nuestra nuestro o
            para pero por porque pues que quien quién qué se según ser si sin sobre son su sus sí también tampoco te
            tiene todo todos tras tu tú un una unas unos usted ustedes y ya yo él
        """,
    ),
    "italian": _language(
        never_last="""
            amm arch avv brig c.a c.c cap cav col comm d.ssa dir dott dott.ssa dr egr es fam gen geom gent ing int
            lod magg mar mons ill.mo on.le p.es prof prof.ssa proff psicol rag rev rif sac sig sig.na sig.ra sigg
            spett ss st ten u.s v.cte vs
        """,
        usually_last="a.c d.c",
        sometimes_last="a.m az co econ f.p inc jr ltd p.m s.p.a s.r.l s.a.s s.n.c",
        before_number="""
            art artt cap fig n nn nr num p pag pagg pp tel vol gen genn feb mar apr mag giu lug ago set sett ott nov
            dic lun mer gio ven sab dom
        """,
        starters="""
            a adesso ai al alla alle allora anche ancora avere c che chi ci come con cosa così da dal dalla dai del
            della dei delle di dopo dove dunque durante e ecco ed egli ella era erano essa essi esso forse fra già
            gli ha hanno i il in infatti infine inoltre invece io l la le lei lo loro lui ma mentre mi molti molto ne
            negli nei nel nella nelle no noi non o oggi ogni oppure per perciò perché però più poi poiché prima
            qualche quale quali quando quanto quella quello quelli quest questa queste questi questo qui quindi se
            secondo si sia sono sopra su sua subito sui sul sulla suo sì tra tu tutta tutte tutti tutto un una uno vi
            voi è
        """,
    ),
    "portuguese": _language(
        never_last="""
            adm arq av d dep dr dra dras drs eng enga exa exma exmo fr gen cel cap hon ilma ilmo insp maj mons mt
            p.ex pe prof profa profs pág sr sra sras srs srta sta sto ten v.exa v.ex vs
        """,
        usually_last="a.c d.c",
        sometimes_last="a.m cia co inc jr ltda ltd p.m s.a s.a.r.l",
        before_number="""
            art arts fig n n.º nº no núm p pp pg pág págs tel vol jan fev mar abr mai jun jul ago set out nov dez
        """,
        starters="""
            a agora ainda algumas alguns além antes ao aos apesar após aqui as assim até cada com como contudo da das
            de depois desde do dos durante e ela elas ele eles em embora enquanto então entre era essa esse esta este
            eu foi há hoje isso isto já logo mais mas meu minha muito muitos na nas nem no nos nossa nosso não nós o
            onde os ou outra outro para pela pelo pois por porque porém quando quanto que quem se segundo sem ser
            será seu seus sim sob sobre sua suas também tem toda todas todo todos tu tudo um uma você vocês à às é
        """,
    ),
    "russian": _language(
        never_last="""
            авт акад англ бул буд в.о г-жа гл гр гос гр-н д-р доц доп др-р зав зам и.о им ин-т инж исп итал кв.м
            кор корп кап лат лит м.б мл мкр наб нам напр о.о обл обор общ ок осн пер пгт пл пом пос пр-т прим
            прос просп проф р-н ред рус с.-х св см соч ср ст-ца т.е т.к т.н т.о тов ул урожд фр
            франц чел шт экз юж
        """,
        sometimes_last="""
            б вв г гг гр др коп куб.м м мин млн млрд мм пр р руб сек тыс ч долл дол
            кг км см.выше
        """,
        usually_last="н.э т.д т.п у.е",
        before_number="""
            гл д кв корп л оф п пп рис с ст стр табл тел том ч № янв фев февр мар апр авг сен сент окт ноя нояб дек
        """,
        starters="""
            а без более больше был была было были в ваш ведь весной весь во вот впрочем все всего всё вчера вы где да
            даже для до его ее если есть ещё еще её за завтра затем здесь зачем зимой и из или иногда их к каждый
            как какой когда конечно кроме кто куда летом лишь ли между меня мне многие может можно мой мы на над
            надо например наш не некоторые нет ни никто но ну о об один однако он она они оно осенью от откуда
            очень перед по под позже пока после потом потому почему поэтому при просто пусть с сегодня сейчас сколько
            со спустя сразу свой так также такой там тебя теперь тем то тогда тоже только тот тут ты у уже хотя чего
            через что чтобы эта эти это этот я
        """,
    ),
}

_ORDINARY_WORDS_ELSEWHERE = frozenset(
    ("col", "d.c", "es", "f", "int", "lit", "m", "mar", "max", "min", "par", "pe", "sen", "б", "г", "м", "р", "ч")
)
_BEFORE_GERMAN_ORDINAL = frozenset(
    ("ab", "am", "bis", "das", "dem", "den", "der", "des", "die", "im", "seit", "vom", "zum", "zur")
)


@cache
def abbreviations_of(language: str) -> Abbreviations:
    """Return the lists of ``language``.

    Chinese, Japanese and Korean text may contain Latin words and uses the English lists. ``auto`` and any other
    name use the union of all lists, without abbreviations that are ordinary words in another language.
    """
    if language in {"chinese", "japanese", "korean"}:
        language = "english"
    if language in _BY_LANGUAGE:
        return _BY_LANGUAGE[language]
    lists = _BY_LANGUAGE.values()
    return Abbreviations(
        never_last=frozenset[str]().union(*(each.never_last for each in lists)) - _ORDINARY_WORDS_ELSEWHERE,
        sometimes_last=frozenset[str]().union(*(each.sometimes_last for each in lists)),
        usually_last=frozenset[str]().union(*(each.usually_last for each in lists)) - _ORDINARY_WORDS_ELSEWHERE,
        before_number=frozenset[str]().union(*(each.before_number for each in lists)),
        starters=frozenset[str]().union(*(each.starters for each in lists)),
        ordinal_after=_BEFORE_GERMAN_ORDINAL,
    )


_CONJUNCTIONS = """
    and or but because while which who that when where if so although though since unless until
    und oder aber weil dass während wenn als ob obwohl damit sondern sowie
    et ou mais car donc parce que qui quand lorsque puisque tandis
    y o pero porque cuando donde aunque mientras sino
    e ma perché che quando dove mentre oppure benché
    mas enquanto embora onde
    и или но а что чтобы потому когда если хотя который которая которые
    그리고 하지만 그러나 그래서 또는 및
"""
CONJUNCTIONS = frozenset(_CONJUNCTIONS.split())
"""Words of all languages before which an overlong sentence may be cut."""

_LAST_WORDS = re.compile(r"(?:(?<![^\W\d_])[^\W\d_]{1,4}\.[ \n]){0,3}[\w.°º№/-]+$")
_INITIALISM = re.compile(r"(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")
_INITIAL = re.compile(r"(?:[^\W\d_]+[.-])*[^\W\d_]")


class Meaning(Enum):
    """What a full stop after a word may mean."""

    ORDINARY = auto()
    ORDINAL = auto()
    BEFORE_NUMBER = auto()
    SOMETIMES_LAST = auto()
    NEVER_LAST = auto()


class LastWord(NamedTuple):
    """The word before a full stop, and what the full stop may mean."""

    text: str
    meaning: Meaning


def last_word_of(before: str, words: Abbreviations) -> LastWord:
    """Classify the last word of ``before``, the text in front of a full stop.

    Abbreviations of several words (``z. B``, ``и т. д``) are found with or without their inner spaces.
    Initials (``J``, ``J.R``) and initialisms (``U.S.A``) are ``SOMETIMES_LAST``.
    """
    match = _LAST_WORDS.search(before)
    if not match:
        return LastWord("", Meaning.ORDINARY)
    parts = match.group().split()
    last = parts[-1].lstrip("-")
    keys = {"".join(parts[first:]).lower() for first in range(len(parts))}
    if last.isdigit():
        ordinal = len(last) < 3 and (words.has_ordinals or _word_before(before, match.start()) in words.ordinal_after)
        return LastWord(last, Meaning.ORDINAL if ordinal else Meaning.ORDINARY)
    initial = _INITIALISM.fullmatch(last) or _INITIAL.fullmatch(last)
    lists = (
        (Meaning.NEVER_LAST, keys & words.never_last),
        (Meaning.ORDINARY, keys & words.usually_last),
        (Meaning.SOMETIMES_LAST, initial or keys & words.sometimes_last),
        (Meaning.BEFORE_NUMBER, keys & words.before_number),
    )
    return LastWord(last, next((meaning for meaning, found in lists if found), Meaning.ORDINARY))


def _word_before(text: str, at: int) -> str:
    return "".join(text[:at].lower().split()[-1:])
