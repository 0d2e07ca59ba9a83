"""Telephone numbers, short numbers that a text tells the reader to call, and codes; all are read digit by digit."""

import re
from typing import Final

from serve_app.text.numbers.forms import LETTER, Form, Place, end
from serve_app.text.numbers.fractions import VULGAR
from serve_app.text.numbers.grammar import NEVER, Grammar
from serve_app.text.numbers.units import units_of
from serve_app.text.numbers.words import NumberWords

_MIN_DIGITS: Final = 7
_MAX_DIGITS: Final = 15
"""The limit of E.164, the international telephone numbering plan."""

_PAUSES: Final = {"zh": "，", "ja": "、"}
"""The separator between groups of digits, if it is not a comma and a space."""

_CALLING: Final = {
    "en": (
        r"\b(?:call(?:s|ed|ing)?|dial(?:s|l?ed|l?ing)?|phon(?:e|ed|ing)|ring|text(?:ed|ing)?)(?: us| me)?(?: on| at)? "
        r"|\b(?:hotline|helpline|extension|ext\.|(?:emergency|phone|hotline) number"
        r"|number is|tel\.?):? "
    ),
    "de": (
        r"\b(?:notruf|rufnummer|nummer|hotline|durchwahl|telefon|tel\.|rufen sie|rufe?|wähl(?:en sie|e|t)|anruf"
        r"|anrufen unter)(?: die| unter)?:? "
    ),
    "fr": (
        r"\b(?:appel(?:ez|er|le)|compos(?:ez|er|e)|téléphon(?:ez|er)|joignez|faites|numéro|tél\.|urgences?)"
        r"(?: le| au)?:? "
    ),
    "es": (
        r"\b(?:llam(?:e|a|ar|en|ad|ando|ó)|mar(?:ca|car|que|quen)|teléfono|tel\.|extensión|número)(?: al| el)?"
        r"(?: número)?:? "
    ),
    "pt": (
        r"\b(?:lig(?:ue|ar|a|uem|ou)|dis(?:que|car|quem)|cham(?:e|ar)|telefone|tel\.|ramal|número)(?: para)?(?: o| ao)?"
        r"(?: número)?:? "
    ),
    "it": (
        r"\b(?:chiam(?:a|ate|are|i)|compon(?:i|ete|ga)|telefon(?:a|ate|are|o)|tel\.|numero)(?: il| al)?(?: numero)?:? "
    ),
    "ru": (
        r"\b(?:звон(?:ите|и|ить)|позвон(?:ите|и|ить|ил|ила|или)|набер(?:ите|и)|набрать|телефон|тел\.|номер)"
        r"(?: по| на)?(?: телефону| номеру| номер)?:? "
    ),
    "zh": r"(?:拨打了?|拨通?|致电|呼叫|打|电话|热线|号码)(?:是|为)?[:：]? ?",
    "ja": r"(?:電話番号|内線)(?:[はが])?[:：]? ?",
    "ko": r"(?:전화번호|내선|긴급전화|전화)(?:[는은])?:? ?",
}  # fmt: skip
"""Words before a number that is called."""

_CODES: Final = {
    "en": (
        r"\b(?:(?:zip|postal|area|access|(?:verification|security|confirmation)) code|code|passcode|password"
        r"|(?-i:PINs?|OTP|ZIP)|pin (?:code|number)"
        r"|(?:account|order|tracking|reference|serial|confirmation|card|policy|passport|customer|phone|id) number"
        r"|(?:card|account|number) ending (?:in|with))(?: is| was)?:? "
    ),
    "de": (
        r"\b(?:\w*code|(?-i:PIN|TAN|PLZ)|postleitzahl|passwort|kennwort|geheimzahl"
        r"|(?:konto|kunden|bestell|auftrags|vorgangs|karten|mitglieds|sendungs)nummer)(?: ist| lautet)?:? "
    ),
    "fr": (
        r"\b(?:code(?: postal| secret| pin| de \w+)?|mot de passe|(?-i:PIN)|numéro de (?:compte|commande|carte|suivi))"
        r"(?: est)?(?: le)?(?: ?:)? "
    ),
    "es": (
        r"\b(?:código(?: postal| secreto| pin| de \w+)?|clave|contraseña|(?-i:PIN|CP)"
        r"|número de (?:cuenta|pedido|tarjeta))"
        r"(?: es)?(?: el)?:? "
    ),
    "pt": (
        r"\b(?:código(?: postal| secreto| pin| de \w+)?|senha|(?-i:PIN|CEP)|número (?:da conta|do pedido|do cartão))"
        r"(?: é)?(?: o)?:? "
    ),
    "it": (
        r"\b(?:codice(?: postale| segreto| pin| di \w+)?|password|(?-i:PIN|CAP)|numero (?:di conto|d'ordine|di carta))"
        r"(?: è)?(?: il)?:? "
    ),
    "ru": (
        r"\b(?:(?:пин-?)?код(?: подтверждения| доступа| из смс)?|(?-i:ПИН|PIN)|пароль|(?:почтовый )?индекс"
        r"|номер (?:сч[её]та|заказа|карты))(?: ?[:—–-])? "
    ),
    "zh": (
        r"(?:(?:验证|校验|取件|提取|激活|识别|PIN)码|PIN|OTP|密码|口令|尾号|邮编|邮政编码|账号|帐号|卡号|订单号|编号|学号|工号)"
        r"(?:是|为)?[:：]? ?"
    ),
    "ja": (
        r"(?:(?:暗証|認証|確認|郵便|口座|会員|注文)番号|(?:認証|確認)コード|パスワード|PIN|OTP)(?:[はが])?[:：]? ?"
    ),
    "ko": (
        r"(?:(?:인증|비밀|우편|확인|계좌|주문) ?번호|(?:인증|확인) ?코드|핀 ?번호|PIN|OTP)(?:[는은이가])?:? ?"
    ),
}  # fmt: skip
"""Words before a code, an account number or the like, whose digits are read one by one."""

_CALLED_AFTER: Final = {
    "en": (
        r"(?= (?:(?:emergency )?(?:call|operator|service|number|line)|emergency|cent(?:er|re)|dispatch(?:er)?"
        r"|hotline)\b"
        r"(?! (?:call|cent(?:er|re)|operator|dispatcher|handler|taker|worker|number|line|service|record|log)s\b))"
    ),
    "de": r"(?<!\b[Vv]on )(?= (?:an)?(?:rufen|wählen|gerufen|gewählt)\b(?! (?:an|den|die|das|ihn|sie|uns)\b))",
    "zh": r"(?=报警|急救|火警|热线|客服)",
    "ja": r"(?=に(?:電話|かけ|ダイヤル|通報|連絡))",
    "ko": r"(?=(?:에|로|으로|를) ?(?:전화|신고|연락|불러|부르))",
}
"""Words after a number that is called; an English plural is a count: ``a 911 call``, but ``I made 911 calls``."""

_COUNTS: Final = {
    "en": (
        r" (?:(?:different|local|new|old|other|random|young) )?"
        r"(?!(?:this|us|always|as|is|was|unless|his|has|across|besides|sometimes|perhaps)\b)"
        r"(?:[a-z]+s|people|men|women|children|more)\b"
    ),
    "de": r" (?:[Mm]al|(?:andere|neue|alte|junge|weitere|verschiedene)n? |(?!(?:Sie|Ihr|Ihre[nmrs]?)\b)[A-ZÄÖÜ]\w+\b)",
    "fr": (
        r" (?:fois|gens|(?!dans|sans|vous|nous|pas|plus|mais|dès|depuis|puis|après|alors|toujours|toutes)\w{3,}s)\b"
    ),
    "es": r" (?:veces|(?!antes|después|más|entonces|mientras|además|tras|unos|unas)\w{3,}s)\b",
    "pt": r" (?:vezes|(?!antes|depois|mais|apenas|através)\w{3,}s)\b",
    "it": (
        r" (?!(?:\w+mente|anche|sempre|oggi|poi|dove|come|oltre|quindi|pure|domani|che|dalle|nelle|oppure|entro)\b)"
        r"\w{3,}[ie]\b| persona\b"
    ),
    "ru": (
        r" (?:раза?|человека?|людей|минуты?|часа|часов|лет|дней|дня|секунды?|друзей|друзьям"
        r"|(?!(?:там|сам|вам|нам)\b)\w{3,}(?:ов|ев|ам|ям)(?!\w))"
    ),
    "zh": " ?[个次通万元块人分折年月天小秒名多几余位家遍条户部米公]",
    "ja": " ?[回人件円番個本台桁社名]",
    "ko": " ?(?:[명개번회원통건대분곳]|자리|시간)",
}  # fmt: skip
"""Words after a number that is a count after all: ``call 100 people``."""

_OF_A_COUNTRY: Final = {
    "de": r"0[1-9][0-9]{1,4}/[0-9]{4,9}|0[1-9][0-9]{1,4}/[0-9]{2,4}(?: [0-9]{2,4}){1,3}",
    "es": r"[6-9][0-9]{2} [0-9]{3} [0-9]{3}|[6-9][0-9]{2}(?: [0-9]{2}){3}|[89][1-8] [0-9]{3} [0-9]{2} [0-9]{2}",
    "pt": r"[1-9][1-9] 9?[0-9]{4}-[0-9]{4}|9[0-9]{4}-[0-9]{4}",
    "it": r"3[2-9][0-9][ -](?:[0-9]{6,7}|[0-9]{3} [0-9]{3,4}|[0-9]{2} [0-9]{2} [0-9]{3})",
    "ru": r"8[ -](?:[0-9]{3}|\([0-9]{3}\))[ -][0-9]{3}[ -][0-9]{2}[ -][0-9]{2}",
    "zh": r"1[3-9][0-9](?: [0-9]{4} [0-9]{4}|-[0-9]{4}-[0-9]{4})|400-[0-9]{3,4}-[0-9]{3,4}",
    "ko": r"1(?:5(?:22|44|66|77|88|99)|[68](?:00|11|22|33|44|55|66|77|88|99)|661|670)-(?![0-9]{2}00)[0-9]{4}",
}
"""National formats of telephone numbers, in addition to those in :func:`telephones`."""

_DATE: Final = "[12][0-9]{3}-[01][0-9]-[0-3][0-9](?![0-9])"
_NO_SIGN: Final = (
    rf"(?![\^/⁄⁻⁰¹²³⁴-⁹{VULGAR}])(?! ?[%‰°℃℉$€£¥₩₽₹年月日년월])(?! ?[–—~〜] ?[0-9])(?! [0-9]+[/⁄]| [{VULGAR}])"
)
"""The pattern of a position after a number that is not part of a power, percentage, amount or range."""


def telephones(words: NumberWords) -> list[Form]:
    """Return the forms of digits in several groups that are not thousands, and of numbers that are called."""
    grammar = words.grammar
    over, code = end(grammar), grammar.code
    begun = rf"(?<![0-9{LETTER}])"
    counts = _COUNTS[code]
    national = rf"{begun}0[0-9]{{1,5}}(?:[ -][0-9]{{2,}})+(?:-[0-9])?{over}"
    nothing_else = rf"{_NO_SIGN}(?!{units_of(words).pattern}(?![0-9{LETTER}]))"
    # The group is atomic: a partial match would put only a part of the row into words.
    row = r"(?>[0-9]{2,}(?:[ -][0-9]{2,})*)"
    is_long = rf"{_thousands(grammar)}(?=[0-9]+[ -][0-9])(?=(?:[ -]?[0-9]){{{_MIN_DIGITS}}})"
    long_row = rf"{is_long}(?:[0-9][ -](?=[0-9]{{3}}))?{row}(?![,.][0-9]){over}{nothing_else}"
    short_row = rf"{row}(?![,.][0-9]){over}{nothing_else}(?!{counts})"
    before_a_count = rf"[0-9]{{2,6}}(?= [0-9]{{1,4}}{counts})"
    called = rf"(?!{_DATE})(?P<called>{national}|{long_row}|{short_row}|{before_a_count})"
    # A code of four digits or more is not a count: "your code 482913 expires".
    coded = rf"(?:(?=[0-9]{{4}})|(?![0-9]+{counts}))(?:{national}|{row}(?![,.][0-9]){over}{nothing_else})"
    forms = [
        Form(r"(?P<abroad>\+[0-9](?:[ ()./-]{0,2}[0-9]){6,20})" + over, lambda place: _telephone(place, "abroad")),
        Form(r"(?P<area>\([0-9]{2,5}\)(?:[ -]?[0-9]){4,12})" + over, lambda place: _telephone(place, "area")),
        Form(
            rf"(?P<dashed>{begun}(?:(?:1-)?[0-9]{{3}}-)?[0-9]{{3}}-[0-9]{{4}}|0[0-9]{{1,4}}-[0-9]{{3,4}}-[0-9]{{4}}){over}",
            lambda place: _telephone(place, "dashed"),
        ),
        Form(
            rf"(?P<pairs>0[1-9](?:(?:\.[0-9]{{2}}){{4}}|(?: [0-9]{{2}}){{4}})){over}",
            lambda place: _telephone(place, "pairs"),
        ),
        Form(
            rf"(?P<home>{begun}(?:{_OF_A_COUNTRY.get(code, NEVER)})"
            rf"(?![-,.][0-9])(?! [0-9]){over}{nothing_else}(?!{counts}))",
            lambda place: _telephone(place, "home"),
        ),
        Form(rf"(?P<national>{national})", lambda place: _telephone(place, "national")),
        Form(rf"(?P<cue_called>(?i:{_CALLING[code]})){called}", _called),
        Form(rf"(?P<cue_code>(?i:{_CODES[code]}))(?!{_DATE})(?P<code>{coded})", _coded),
        Form(r"\+[0-9][0-9 ()./-]{5,}[0-9]", _leave),
        Form(r"\([0-9]{2,5}\) ?[0-9][0-9 -]{3,}[0-9]", _leave),
        Form(r"0[0-9]{1,5}(?:[ ./-][0-9]{2,})+", _leave),
        Form(rf"{_thousands(grammar)}(?:[0-9] (?=[0-9]{{3}} ))?[0-9]{{2,}}(?: [0-9]{{2,}}){{2,}}(?: [0-9]+)*", _leave),
    ]
    if code in _CALLED_AFTER:
        forms.append(
            Form(
                rf"(?P<called_after>{begun}(?=[0-9]{{3,5}}(?![0-9])){row}){_CALLED_AFTER[code]}",
                lambda place: _digits(place, "called_after"),
            )
        )
    return forms


def _thousands(grammar: Grammar) -> str:
    """Return the pattern of a position where no number with grouped thousands begins."""
    if " " in grammar.groups:
        return r"(?![0-9]{1,3}(?: [0-9]{3}){1,6}(?! ?[0-9]))"
    return r"(?![1-9][0-9]{0,2}(?: [0-9]{3}){0,5} 000(?! ?[0-9]))(?![1-9][0-9]?(?: [0-9]{3}){2,6}(?! ?[0-9]))"


def _leave(_: Place) -> None:
    return None


def _telephone(place: Place, name: str) -> str | None:
    digits = sum(map(str.isdigit, place.groups[name]))
    return _digits(place, name) if _MIN_DIGITS <= digits <= _MAX_DIGITS else None


def _called(place: Place) -> str:
    return place.groups["cue_called"] + _digits(place, "called")


def _coded(place: Place) -> str:
    return place.groups["cue_code"] + _digits(place, "code")


def _digits(place: Place, name: str) -> str:
    """Read the digits of a number one by one, with a pause between its groups."""
    written, pause = place.groups[name], _PAUSES.get(place.grammar.code, ", ")
    groups = [place.words.digits(group) for group in re.findall("[0-9]+", written)]
    plus = [place.grammar.plus] if written.startswith("+") else []
    first = f"{' '.join(plus)}{place.grammar.digit_gap}" if plus else ""
    return first + pause.join(groups)
