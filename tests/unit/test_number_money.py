"""Amounts of money in ten languages: signs with and without a country, cents, ranges, and signs with a name."""

import pytest

from serve_app.spoken_numbers import spell

WRITTEN = {
    "english": [
        ("$.99", "ninety-nine cents"),
        ("$674.03", "six hundred seventy-four dollars three cents"),
        ("$1.01", "one dollar one cent"),
        ("$5.50", "five dollars fifty"),
        ("£3.05", "three pounds five pence"),
        ("€0.50", "fifty cents"),
        ("$0.05", "five cents"),
        ("99¢", "ninety-nine cents"),
        ("-$5", "minus five dollars"),
        ("$-5", "minus five dollars"),
        ("$1,234,567.89", "one million two hundred thirty-four thousand five hundred sixty-seven dollars eighty-nine"),
        ("¥1.50", "one point five zero yen"),
        ("CHF 5.05", "five Swiss francs five centimes"),
        ("US$5.50", "five US dollars fifty"),
        ("A$50, C$20, HK$100", "fifty Australian dollars, twenty Canadian dollars, one hundred Hong Kong dollars"),
        (
            "NT$300, S$3, R$5, NZ$1",
            "three hundred New Taiwan dollars, three Singapore dollars, five Brazilian reals, one New Zealand dollar",
        ),
        ("￥100元", "one hundred Chinese yuan"),
        ("$5美元", "five dollars"),
        ("₩1,500원", "one thousand five hundred won"),
        ("€5 euros", "five euros"),
        ("USD 5", "five US dollars"),
        ("5 USD", "five US dollars"),
        ("$5 dollars", "five dollars"),
        ("$5 CAD", "five Canadian dollars"),
        ("5 000 €", "five thousand euros"),
        ("5 000 €", "five thousand euros"),
        ("1 234.50 €", "one thousand two hundred thirty-four euros fifty"),
        ("₹1,00,000", "one hundred thousand rupees"),
        ("12'345.50 CHF", "twelve thousand three hundred forty-five Swiss francs fifty"),
        ("$5-$10, $5–10", "five to ten dollars, five to ten dollars"),
        ("$5-10 million", "five to ten million dollars"),
        ("€674,03", "six hundred seventy-four euros three cents"),
        ("5$", "five dollars"),
        ("$5.", "five dollars."),
        ("$ 5", "five dollars"),
    ],
    "german": [
        ("674,03 €", "sechshundertvierundsiebzig Euro drei Cent"),
        ("1,01 €", "ein Euro ein Cent"),
        ("0,99 €", "neunundneunzig Cent"),
        ("US$ 5", "fünf US-Dollar"),
        ("5 US-Dollar", "fünf US-Dollar"),
        ("A$50", "fünfzig Australische Dollar"),
        ("5 000 €", "fünftausend Euro"),
        ("$674.03", "sechshundertvierundsiebzig Dollar drei Cent"),
        ("1,234.56 $", "eintausendzweihundertvierunddreißig Dollar sechsundfünfzig"),
        ("5'000 CHF", "fünftausend Schweizer Franken"),
    ],
    "french": [
        ("674,03 €", "six cent soixante-quatorze euros trois centimes"),
        ("1,01 €", "un euro un centime"),
        ("0,99 €", "quatre-vingt-dix-neuf centimes"),
        ("5 000 €", "cinq mille euros"),
        ("100 $US", "cent dollars des États-Unis"),
        ("50 $ CA", "cinquante dollars canadiens"),
        ("A$50", "cinquante dollars australiens"),
        ("1 000 000 €", "un million d'euros"),
    ],
    "spanish": [
        ("$674.03", "seiscientos setenta y cuatro dólares con tres centavos"),
        ("674,03 €", "seiscientos setenta y cuatro euros con tres céntimos"),
        ("1,01 €", "un euro con un céntimo"),
        ("0,05 €", "cinco céntimos"),
        ("A$50", "cincuenta dólares australianos"),
        ("US$ 5", "cinco dólares estadounidenses"),
    ],
    "portuguese": [
        ("R$ 674,03", "seiscentos e setenta e quatro reais e três centavos"),
        ("R$ 1,01", "um real e um centavo"),
        ("R$ 0,99", "noventa e nove centavos"),
        ("US$ 5", "cinco dólares americanos"),
        ("1,01 €", "um euro e um cêntimo"),
    ],
    "italian": [
        ("674,03 €", "seicentosettantaquattro euro e tre centesimi"),
        ("1,01 €", "un euro e un centesimo"),
        ("HK$100", "cento dollari di Hong Kong"),
    ],
    "russian": [
        ("674,03 ₽", "шестьсот семьдесят четыре рубля три копейки"),
        ("1,01 ₽", "один рубль одна копейка"),
        ("2,02 ₽", "два рубля две копейки"),
        ("0,50 ₽", "пятьдесят копеек"),
        ("1,50 €", "один евро пятьдесят"),
        ("$1.01", "один доллар один цент"),
        ("A$50", "пятьдесят австралийских долларов"),
        ("около 100 ₽", "около ста рублей"),
    ],
    "chinese": [
        ("$.99", "九十九美分"),
        ("$674.03", "六百七十四点零三美元"),
        ("￥100元", "一百元"),
        ("$5美元", "五美元"),
        ("￥100", "一百元"),
        ("HK$100", "一百港元"),
        ("A$50", "五十澳大利亚元"),
        ("￥3.5", "三点五元"),
    ],
    "japanese": [
        ("$.99", "九十九セント"),
        ("$1.01", "一ドル一セント"),
        ("¥1,500円", "千五百円"),
        ("$5ドル", "五ドル"),
        ("HK$100", "百香港ドル"),
    ],
    "korean": [
        ("$.99", "구십구 센트"),
        ("$1.01", "일 달러 일 센트"),
        ("₩1,500원", "천오백 원"),
        ("$5달러", "오 달러"),
        ("HK$100", "백 홍콩 달러"),
        ("₩1,500원입니다", "천오백 원입니다"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert spell(text, language) == spelled
