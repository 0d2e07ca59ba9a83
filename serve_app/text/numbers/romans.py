"""Roman numerals. They are numbers only if a word next to them says so: Chapter IV, Louis XIV, XXe siècle.

Letters that are more often words or names than numbers (a lone I, C, D, L or M) stay as they are.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from serve_app.text.numbers.forms import LETTER, Form, Place
from serve_app.text.numbers.words import NumberWords

_SYMBOLS: Final = "Ⅰ-Ⅻ"
_NUMERAL: Final = rf"(?<![0-9{LETTER}])(?<![IVXLeè][-–—])(?<![IVXLeè] [–—] )(?:[IVXL]{{1,8}}|[{_SYMBOLS}])"
ROMAN: Final = rf"{_NUMERAL}(?![A-Z0-9])"
"""The pattern of a possible Roman numeral below ninety."""


_WELL_FORMED = re.compile(r"(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_VALUES: Final = {"I": 1, "V": 5, "X": 10, "L": 50}
_LONE = r"[.,;:!?)\]»”\"]|\n|$"


@dataclass(frozen=True, slots=True)
class _Context:
    """A context in which Roman numerals are numbers.

    Attributes:
        before: the pattern of the words before the numeral, with the separator.
        behind: the pattern of an ending that belongs to the numeral and is not spoken.
        after: the pattern that must follow.
        rule_set: CLDR's rule set; empty for a plain cardinal.
        ordinal_below: numbers from this one on are plain cardinals.
        said: the template for the number's words.
        lone: the pattern that must follow a lone I; empty allows anything.
    """

    before: str = ""
    behind: str = ""
    after: str = ""
    rule_set: str = ""
    ordinal_below: int = 90
    said: str = "{}"
    lone: str = _LONE


_CONTEXTS: Final = {
    "en": (
        _Context(
            r"\b(?:[Cc]hapter|[Pp]art|[Vv]olume|[Vv]ol\.|[Bb]ook|[Aa]ct|[Ss]cene|[Ss]ection|[Aa]rticle|[Pp]hase|[Ss]tage"
            r"|[Ss]eason|[Ee]pisode|[Tt]itle|[Aa]ppendix|[Aa]nnex|[Ff]igure|[Tt]able|[Pp]salm|[Cc]anto|Super Bowl) "
        ),
        _Context(r"\b(?:[Tt]ype|[Gg]rade|[Cc]lass|[Ll]evel|[Rr]ound|[Mm]ark|[Vv]ersion) (?=[IVX]{2})"),
        _Context(r"\bWorld War ", lone=""),
        _Context(
            r"\b(?:Louis|Henry|Charles|Elizabeth|George|Edward|Richard|James|William|Philip|Frederick|Napoleon|Nicholas"
            r"|Alexander|Catherine|Peter|Francis|Ferdinand|Leo|Pius|Benedict|Gregory|Innocent|Clement|Urban|John Paul"
            r"|Ramesses|Ramses|Ptolemy|(?:King|Queen|Pope|Emperor|Empress|Tsar) [A-Z][a-z]+) ",
            rule_set="ordinal", said="the {}",
        ),
    ),
    "de": (
        _Context(r"\b(?:Kapitel|Teil|Band|Buch|Akt|Szene|Abschnitt|Artikel|Phase|Stufe|Staffel|Abbildung|Tabelle) "),
        _Context(
            r"(?<!von )(?<!mit )(?<!unter )\b(?:Ludwig|Heinrich|Karl|Wilhelm|Friedrich|Georg|Otto|Napoleon|Philipp|Pius"
            r"|Leo|Benedikt|Gregor|Elisabeth|Katharina|Johannes Paul) ",
            behind=r"\.", rule_set="ordinal", said="der {}", lone="",
        ),
    ),
    "fr": (
        _Context(
            r"\b(?:[Cc]hapitre|[Pp]artie|[Tt]ome|[Ll]ivre|[Aa]cte|[Ss]cène|[Ss]ection|[Aa]rticle|[Vv]olume|[Pp]hase"
            r"|[Tt]itre|[Aa]nnexe|[Ss]aison|[Éé]pisode|[Ff]igure|[Tt]ableau) "
        ),
        _Context(r"\b(?:Louis|Henri|Charles|Napoléon|Philippe|François|Pie|Léon|Benoît|Jean-Paul|Guillaume) "),
        _Context(
            r"\b(?:François|Napoléon|Charles|Henri|Philippe|Élisabeth|Guillaume|Nicolas|Alexandre) ", behind="er",
            rule_set="ordinal-masculine", lone="",
        ),
        _Context(behind="(?:er|e|ème|è)", after=" siècles?\\b| millénaires?\\b", rule_set="ordinal-masculine", lone=""),
        _Context(behind="(?:re|e|ème|è)", after=" (?:République|[Gg]uerre)\\b", rule_set="ordinal-feminine", lone=""),
    ),
    "es": (
        _Context(
            r"\b(?:[Cc]apítulo|[Pp]arte|[Tt]omo|[Ll]ibro|[Aa]cto|[Ee]scena|[Ss]ección|[Aa]rtículo|[Vv]olumen|[Ff]ase"
            r"|[Tt]ítulo|[Aa]nexo|[Tt]emporada|[Ee]pisodio) "
        ),
        _Context(r"\b[Ss]iglos? ", lone=""),
        _Context(
            r"\b(?:Luis|Enrique|Carlos|Felipe|Alfonso|Fernando|Napoleón|Juan Pablo|Pío|León|Benedicto|Jorge) ",
            rule_set="ordinal-masculine", ordinal_below=11,
        ),
        _Context(r"\b(?:Isabel|Catalina) ", rule_set="ordinal-feminine"),
        _Context(after=" Guerra Mundial\\b", rule_set="ordinal-feminine", lone=""),
    ),
    "pt": (
        _Context(
            r"\b(?:[Cc]apítulo|[Pp]arte|[Tt]omo|[Ll]ivro|[Aa]to|[Cc]ena|[Ss]eção|[Aa]rtigo|[Vv]olume|[Ff]ase|[Tt]ítulo"
            r"|[Aa]nexo|[Tt]emporada|[Ee]pisódio) "
        ),
        _Context(r"\b[Ss]éculos? ", lone=""),
        _Context(
            r"\b(?:Luís|Henrique|Carlos|Filipe|Afonso|Fernando|Napoleão|João Paulo|João|Pedro|Manuel|Pio|Leão|Bento) ",
            rule_set="ordinal-masculine", ordinal_below=11,
        ),
        _Context(r"\b(?:Isabel|Elizabeth|Maria|Catarina) ", rule_set="ordinal-feminine"),
        _Context(after=" Guerra Mundial\\b", rule_set="ordinal-feminine", lone=""),
    ),
    "it": (
        _Context(
            r"\b(?:[Cc]apitolo|[Pp]arte|[Tt]omo|[Ll]ibro|[Aa]tto|[Ss]cena|[Ss]ezione|[Aa]rticolo|[Vv]olume|[Ff]ase"
            r"|[Tt]itolo|[Aa]llegato|[Cc]anto|[Ss]tagione|[Ee]pisodio) "
        ),
        _Context(
            r"\b(?:Luigi|Enrico|Carlo|Filippo|Vittorio Emanuele|Umberto|Napoleone|Giovanni Paolo|Pio|Leone|Benedetto"
            r"|Giorgio|Federico) ",
            rule_set="ordinal-masculine",
        ),
        _Context(r"\b(?:Elisabetta|Caterina) ", rule_set="ordinal-feminine"),
        _Context(r"\b[Ss]ecolo ", rule_set="ordinal-masculine", lone=""),
        _Context(after=" secolo\\b", rule_set="ordinal-masculine", lone=""),
        _Context(after=" (?:[Gg]uerra|[Rr]epubblica)\\b", rule_set="ordinal-feminine", lone=""),
    ),
    "ru": (
        _Context(r"\b(?:[Гг]лава|[Чч]асть|[Тт]ом|[Кк]нига|[Рр]аздел|[Аа]кт|[Сс]цена|[Сс]татья|[Фф]аза|[Сс]езон) "),
        _Context(
            r"\b(?:Людовик|Генрих|Карл|Пётр|Петр|Николай|Александр|Павел|Иван|Наполеон|Филипп|Фридрих|Георг|Карл) ",
            rule_set="ordinal-masculine",
        ),
        _Context(r"\b(?:Екатерина|Елизавета) ", rule_set="ordinal-feminine"),
        _Context(after=" век(?![А-яЁё])", rule_set="ordinal-masculine", lone=""),
        _Context(after=" века(?![А-яЁё])", rule_set="ordinal-masculine-genitive", lone=""),
        _Context(after=" веке(?![А-яЁё])", rule_set="ordinal-masculine-locative", lone=""),
        _Context(after=" веку(?![А-яЁё])", rule_set="ordinal-masculine-dative", lone=""),
        _Context(after=" веком(?![А-яЁё])", rule_set="ordinal-masculine-ablative", lone=""),
        _Context(after=" мировая(?![А-яЁё])", rule_set="ordinal-feminine", lone=""),
    ),
    "zh": (_Context("第", lone=""),),
    "ja": (_Context("第", lone=""),),
    "ko": (_Context("제", lone=""),),
}  # fmt: skip


def romans(words: NumberWords) -> list[Form]:
    """Return the forms of Roman numerals in the contexts of a language."""
    return [_form(index, context) for index, context in enumerate(_CONTEXTS[words.grammar.code])]


def _form(index: int, context: _Context) -> Form:
    end = rf"(?![0-9{LETTER}])(?! ?[-–—] ?[IVXL])(?!-[0-9{LETTER}])(?![./][0-9{LETTER}])"
    after = f"(?={context.after})" if context.after else ""
    lone = f"(?!I(?![IVXL])(?!{context.lone}))" if context.lone else ""
    numeral = f"{lone}(?P<roman{index}>{_NUMERAL})(?:{context.behind})"
    return Form(
        f"(?P<before{index}>{context.before}){numeral}{end}{after}", lambda place: _roman(place, index, context)
    )


def _roman(place: Place, index: int, context: _Context) -> str | None:
    numeral = unicodedata.normalize("NFKC", place.groups[f"roman{index}"])
    if not _WELL_FORMED.fullmatch(numeral) or numeral == "L":
        return None
    number, words = _value(numeral), place.words
    ordinal = context.rule_set and number < context.ordinal_below
    spoken = words.spelled(number, context.rule_set) if ordinal else words.cardinal(number)
    return place.groups[f"before{index}"] + context.said.format(spoken)


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    return sum(-value if value < max(values[index:]) else value for index, value in enumerate(values))
