"""Numbers and ranges with a unit in ten languages; names and plural forms are CLDR's."""

import pytest

from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("5 km", "five kilometers"),
        ("1 km", "one kilometer"),
        ("5km", "five kilometers"),
        ("0.5 km", "zero point five kilometers"),
        ("20 °C", "twenty degrees Celsius"),
        ("20℃", "twenty degrees Celsius"),
        ("-40°F", "minus forty degrees Fahrenheit"),
        ("98.6 °F", "ninety-eight point six degrees Fahrenheit"),
        ("60 mph", "sixty miles per hour"),
        ("5 ft, 6 lbs", "five feet, six pounds"),
        ("1.5 L", "one point five liters"),
        ("2 hrs, 30 min, 5 s", "two hours, thirty minutes, five seconds"),
        ("16 GB", "sixteen gigabytes"),
        ("100 kWh", "one hundred kilowatt-hours"),
        ("100 km/h", "one hundred kilometers per hour"),
        ("5 m²", "five square meters"),
        ("45°", "forty-five degrees"),
        ("5-10 km", "five to ten kilometers"),
        ("12V", "twelve volts"),
        ("1,5 kg", "one point five kilograms"),
        ("5 000 km", "five thousand kilometers"),
        ("80 m2, 5 cm3 and 5㎡", "eighty square meters, five cubic centimeters and five square meters"),
        ("5 dm3, 5 mp3 files", "5 dm3, five mp3 files"),
        ("a 100m sprint, 5m long, 5m people", "a one hundred meters sprint, five meters long, 5m people"),
        ('a 12" pizza, 3/4" pipe', 'a 12" pizza, 3/4" pipe'),
        ("5' wall", "5' wall"),
        ('5"x7"', '5"x7"'),
        ('"chapter 5" or "5" or \'5\'', '"chapter five" or "five" or \'five\''),
        ("5 ft 11 in, 1ft 1in tall", "five feet eleven inches, one foot one inch tall"),
        ("100° F", "one hundred degrees Fahrenheit"),
    ],
    "german": [
        ("5 km", "fünf Kilometer"),
        ("1 km", "ein Kilometer"),
        ("20 °C", "zwanzig Grad Celsius"),
        ("2,5 kg", "zwei Komma fünf Kilogramm"),
        ("1 t", "eine Tonne"),
        ("20 Min.", "zwanzig Minuten"),
        ("100 km/h", "einhundert Kilometer pro Stunde"),
        ("2.5 kg", "zwei Komma fünf Kilogramm"),
        ("-5 °C", "minus fünf Grad Celsius"),
        ("80 m2", "achtzig Quadratmeter"),
        ('„Kapitel 5“ und "5"', '„Kapitel fünf“ und "fünf"'),
    ],
    "french": [
        ("5 km", "cinq kilomètres"),
        ("1,5 km", "un virgule cinq kilomètre"),
        ("20 °C", "vingt degrés Celsius"),
        ("5 Go", "cinq gigaoctets"),
        ("3 m²", "trois mètres carrés"),
        ("80 km/h", "quatre-vingts kilomètres par heure"),
    ],
    "spanish": [
        ("5 km", "cinco kilómetros"),
        ("21 km", "veintiún kilómetros"),
        ("20 °C", "veinte grados Celsius"),
    ],
    "portuguese": [
        ("5 km", "cinco quilômetros"),
        ("20 °C", "vinte graus Celsius"),
        ("1 kg", "um quilograma"),
    ],
    "italian": [
        ("5 km", "cinque chilometri"),
        ("1 km", "un chilometro"),
        ("20 °C", "venti gradi Celsius"),
        ("20°", "venti gradi"),
    ],
    "russian": [
        ("5 км", "пять километров"),
        ("1 км", "один километр"),
        ("2 км", "два километра"),
        ("1,5 км", "одна целая пять десятых километра"),
        ("1 т, 2 т, 5 т", "одна тонна, две тонны, пять тонн"),
        ("20 °C", "двадцать градусов Цельсия"),
        ("100 км/ч", "сто километров в час"),
        ("до 5 км", "до пяти километров"),
        ("до 21 т", "до двадцати одной тонны"),
        ("на 5 км", "на пять километров"),
        ("от 5 до 10 км", "от пяти до десяти километров"),
        ("80 м2", "восемьдесят квадратных метров"),
    ],
    "chinese": [
        ("5 km", "五公里"),
        ("5km", "五公里"),
        ("20 °C", "二十摄氏度"),
        ("气温-5°C", "气温负五摄氏度"),
        ("100km/h", "每小时一百公里"),
        ("2 kg", "两千克"),
        ("3~5km", "三到五公里"),
        ("80㎡、5㎞、5㎏、5㏒", "八十平方米、五公里、五千克、5㏒"),
    ],
    "japanese": [
        ("5 km", "五キロメートル"),
        ("5km", "五キロメートル"),
        ("20 °C", "摂氏二十度"),
        ("気温-5℃", "気温摂氏マイナス五度"),
        ("100km/h", "時速百キロメートル"),
        ("3~5km", "三から五キロメートル"),
        ("80㎡", "八十平方メートル"),
    ],
    "korean": [
        ("5 km", "오킬로미터"),
        ("5km를", "오킬로미터를"),
        ("20 °C", "섭씨 이십도"),
        ("2.5kg", "이점오킬로그램"),
        ("3~5km", "삼에서 오킬로미터"),
        ("80㎡", "팔십제곱미터"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled
