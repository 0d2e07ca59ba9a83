"""Numbers, money, percentages, ranges and ordinals as they are written in ten languages; and what is left alone."""

import pytest

from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("1,234.5 of 21 units", "one thousand two hundred thirty-four point five of twenty-one units"),
        ("-3 degrees, 0.05", "minus three degrees, zero point zero five"),
        ("50% or 5-10 %", "fifty percent or five to ten percent"),
        ("$5.50, £1, ¥500, €5.00", "five dollars fifty, one pound, five hundred yen, five euros"),
        ("$0.99 and $1.05", "ninety-nine cents and one dollar five cents"),
        ("$5 million, USD 5, -$3", "five million dollars, five US dollars, minus three dollars"),
        ("the 1st, 22nd and 103rd", "the first, twenty-second and one hundred third"),
        ("pages 10-20, 99–100", "pages ten to twenty, ninety-nine to one hundred"),
        ("a 20-year-old, 24-hour news", "a twenty-year-old, twenty-four-hour news"),
        ("007, 0049", "zero zero seven, zero zero four nine"),
        ("card 4111111111111111", "card four" + " one" * 15),
        ("(4) [1]", "(four) [one]"),
        (".5, -.5 and .25%", "point five, minus point five and point two five percent"),
        ("10^6, 10⁶ or 2^-3", "ten to the power of six, ten to the power of six or two to the power of minus three"),
        ("5 000 people, room 5 100 people", "five thousand people, room five one hundred people"),
        ("12 000 000 or 5'000 or 5\u202f100", "twelve million or five thousand or five thousand one hundred"),
        ("5%-10%, 5–10 %", "five to ten percent, five to ten percent"),
        ("The 3rd, the 21ST", "The third, the twenty-first"),
        ("10‑20%, $5‑$10, 1‑1/2, GPT‑4", "ten to twenty percent, five to ten dollars, one and a half, GPT‑4"),
    ],
    "german": [
        ("1.234,56 und 1 000", "eintausendzweihundertvierunddreißig Komma fünf sechs und eintausend"),
        ("1 Mann, 1 Katze, 1 neue Idee, 1 von 3", "ein Mann, eine Katze, eine neue Idee, eins von drei"),
        ("5,50 €, 1 €, 5 Millionen €", "fünf Euro fünfzig, ein Euro, fünf Millionen Euro"),
        ("1 %, 2,5 %, 3–5 Tage", "ein Prozent, zwei Komma fünf Prozent, drei bis fünf Tage"),
        (",5 oder 10^6", "Komma fünf oder zehn hoch sechs"),
        ("im 3. Stock, der 2. Platz. Er ist 3. Und", "im dritten Stock, der zweite Platz. Er ist drei. Und"),
    ],
    "french": [
        ("1 234 567,89", "un million deux cent trente-quatre mille cinq cent soixante-sept virgule quatre-vingt-neuf"),
        ("1 heure, 21 personnes, 1 livre", "une heure, vingt-et-une personnes, un livre"),
        ("5,50 €, 1 000 000 €, 2 £", "cinq euros cinquante, un million d'euros, deux livres sterling"),
        (",5 ou 10^6, 3ème", "virgule cinq ou dix puissance six, troisième"),
        ("3,5 %, 1er, 1re, 2e, l'1", "trois virgule cinq pour cent, premier, première, deuxième, l'un"),
    ],
    "spanish": [
        ("1 libro, 1 casa, 200 personas, 1 día, 21", "un libro, una casa, doscientas personas, un día, veintiuno"),
        ("5,50 €, $21, 1.000.000 €", "cinco euros con cincuenta, veintiún dólares, un millón de euros"),
        (",5 y 10^6, 3ra", "coma cinco y diez elevado a seis, tercera"),
        ("3,5 %, 1.º, 2ª, 3er", "tres coma cinco por ciento, primero, segunda, tercer"),
    ],
    "portuguese": [
        ("2 casas, 2 dias, 200 pessoas, 2", "duas casas, dois dias, duzentas pessoas, dois"),
        ("R$ 5,50, R$ 1, 5 milhões €", "cinco reais e cinquenta, um real, cinco milhões de euros"),
        (",5 e 10^6", "vírgula cinco e dez elevado a seis"),
        ("3,5%, 1º, 3ª", "três vírgula cinco por cento, primeiro, terceira"),
    ],
    "italian": [
        ("1 casa, 1 libro, 21 anni, 1", "una casa, un libro, ventuno anni, uno"),
        ("5,50 €, £1, 1.000.000 €", "cinque euro e cinquanta, una sterlina, un milione di euro"),
        (",5 e 10^6", "virgola cinque e dieci elevato a sei"),
        ("2%, il 20° posto, 20 °C, 1ª", "due per cento, il ventesimo posto, venti gradi Celsius, prima"),
    ],
    "russian": [
        ("1 книга, 2 книги, 2 стола, 1 окно", "одна книга, две книги, два стола, одно окно"),
        ("11 дней, 12 недель, 21 год", "одиннадцать дней, двенадцать недель, двадцать один год"),
        ("3,14; 1,5", "три целых четырнадцать сотых; одна целая пять десятых"),
        ("1%, 2%, 5%, 2,5%", "один процент, два процента, пять процентов, две целых пять десятых процента"),
        ("21 ₽, 2 ₽, 5 €, 2 £", "двадцать один рубль, два рубля, пять евро, два фунта"),
        (",5; 10^6", "ноль целых пять десятых; десять в степени шесть"),
        ("до 5 человек, до 5 %", "до пяти человек, до пяти процентов"),
        ("5-й, 3-го, 1990-е", "пятый, третьего, тысяча девятьсот девяностые"),
        ("2-х, 3-х, 7-ми, 90-х", "2-х, 3-х, 7-ми, девяностых"),
    ],
    "chinese": [
        ("2个，第2个，2月，22个，200元", "两个，第二个，二月，二十二个，两百元"),
        ("3.5万，1,234，2亿", "三点五万，一千两百三十四，两亿"),
        ("50%，¥5，$5.50，-5度", "百分之五十，五元，五点五零美元，负五度"),
        (".5，10^6，10~20个", "点五，十的六次方，十到二十个"),
        ("10%-20%", "百分之十到百分之二十"),
        ("10-20，13800138000", "十到二十，一三八零零一三八零零零"),
        ("10点-12点，3天-5天，1万-2万", "十点到十二点，三天到五天，一万到两万"),
        ("2020年-2024年，上午9点-下午3点", "二零二零年到二零二四年，上午九点到下午三点"),
        ("10元~20元，3月5日~8日", "十元到二十元，三月五日到八日"),
        ("3月5日~4月8日", "三月五日到四月八日"),
        ("-5度~-3度，气温-5℃", "负五度到负三度，气温负五摄氏度"),
        ("3胜-2负，3胜~2负", "三胜-二负，3胜~2负"),
        ("3000元/月，10-20元/天，3月", "3000元/月，10-20元/天，三月"),
    ],
    "japanese": [
        ("3人、第3回、1つ、1,234", "三人、第三回、一つ、千二百三十四"),
        ("50%、¥500、¥5万、-5度", "五十パーセント、五百円、五万円、マイナス五度"),
        ("0.5、10-20", "零点五、十から二十"),
        (".5、10^6、10～20人", "点五、十の六乗、十から二十人"),
        ("9時-18時、1人-3人", "九時から十八時、一人から三人"),
        ("5月～8月、1000円～2000円、10－20人", "五月から八月、千円から二千円、十から二十人"),
    ],
    "korean": [
        ("3개, 3개월, 20명, 100개, 3 살", "세 개, 삼개월, 스무 명, 백개, 세 살"),
        ("1번째, 21번째, 제3회", "첫 번째, 스물한 번째, 제삼회"),
        (".5, 10^6, 10~20명", "점오, 십의 육제곱, 십에서 스무명"),
        ("₩500, 5,000원, 3.5%", "오백 원, 오천원, 삼점오 퍼센트"),
        ("9시-18시, 6월~10월", "아홉 시에서 십팔시, 유월에서 시월"),
        ("1,000원 ~ 2,000원, 오전 9시~오후 6시", "천원에서 이천원, 오전 아홉 시에서 오후 여섯 시"),
        ("3개－5개", "세 개에서 다섯 개"),
        ("20대 여성, 3대, 3대 2", "이십대 여성, 세 대, 삼대 이"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled


@pytest.mark.parametrize("language", WRITTEN)
@pytest.mark.parametrize(
    "text",
    [
        "v1.2.3", "1.2.3", "192.168.0.1", "https://a.b/c?d=1&e=22", "GPT-4", "COVID-19", "mp3",
        "A4", "5G", "H2O", "0x1F", "3:2", "9/11", "24/7", "12:30:45", "4111 1111 1111 1111",
        "1,2,3", "x_1", "2024-05-03T14:30", "10-5",
    ],
)  # fmt: skip
def test_what_is_not_a_number_is_left_as_it_is_written(language, text):
    assert normalize(text, language) == text
    assert normalize(f"({text}), x", language) == f"({text}), x"
