"""Roman numerals, read only where a word beside them says that they are numbers."""

import pytest

from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("Chapter IV", "Chapter four"),
        ("Louis XIV was", "Louis the fourteenth was"),
        ("World War II and I", "World War two and I"),
        ("World War I", "World War one"),
        ("Chapter I.", "Chapter one."),
        ("In Chapter I learned", "In Chapter I learned"),
        ("Henry VIII's wives", "Henry the eighth's wives"),
        ("Queen Elizabeth II.", "Queen Elizabeth the second."),
        ("Super Bowl LVIII", "Super Bowl fifty-eight"),
        ("Part V", "Part five"),
        ("Act I, Scene II", "Act one, Scene two"),
        ("Malcolm X", "Malcolm X"),
        ("vitamin C", "vitamin C"),
        ("I think I can", "I think I can"),
        ("IV", "IV"),
        ("Chapter IVX", "Chapter IVX"),
        ("Part IL", "Part IL"),
        ("Type II diabetes", "Type two diabetes"),
        ("Class X", "Class X"),
    ],
    "german": [
        ("Kapitel IV", "Kapitel vier"),
        ("Ludwig XIV. war", "Ludwig der vierzehnte war"),
        ("von Ludwig XIV. und", "von Ludwig XIV. und"),
    ],
    "french": [
        ("Chapitre IV", "Chapitre quatre"),
        ("Louis XIV", "Louis quatorze"),
        ("XXe siècle", "vingtième siècle"),
        ("François Ier", "François premier"),
        ("Ve République", "cinquième République"),
        ("XIXe–XXe siècle", "XIXe–XXe siècle"),
    ],
    "spanish": [
        ("Capítulo IV", "Capítulo cuatro"),
        ("siglo XX", "siglo veinte"),
        ("Felipe VI", "Felipe sexto"),
        ("Luis XIV", "Luis catorce"),
        ("II Guerra Mundial", "segunda Guerra Mundial"),
    ],
    "portuguese": [
        ("Capítulo IV", "Capítulo quatro"),
        ("século XX", "século vinte"),
        ("João VI", "João sexto"),
    ],
    "italian": [
        ("Capitolo IV", "Capitolo quattro"),
        ("XX secolo", "ventesimo secolo"),
        ("Luigi XIV", "Luigi quattordicesimo"),
    ],
    "russian": [
        ("Глава IV", "Глава четыре"),
        ("XX век", "двадцатый век"),
        ("в XX веке", "в двадцатом веке"),
        ("XIX века", "девятнадцатого века"),
        ("Людовик XIV", "Людовик четырнадцатый"),
        ("Пётр I", "Пётр первый"),
        ("Екатерина II", "Екатерина вторая"),
        ("XIX–XX века", "XIX–XX века"),
    ],
    "chinese": [
        ("第IV章", "第四章"),
        ("第Ⅳ章", "第四章"),
    ],
    "japanese": [
        ("第IV章", "第四章"),
    ],
    "korean": [
        ("제IV장", "제사장"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled
