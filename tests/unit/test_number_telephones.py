"""Telephone numbers, and short numbers where the text is about calling them."""

import pytest

from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("+1 (555) 010-7788", "plus one, five five five, zero one zero, seven seven eight eight"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("Call 555-1234.", "Call five five five, one two three four."),
        ("Call 911 now", "Call nine one one now"),
        ("Dial 112!", "Dial one one two!"),
        ("extension 204", "extension two zero four"),
        ("1-800-555-0199", "one, eight zero zero, five five five, zero one nine nine"),
        ("call 100 people", "call one hundred people"),
        ("call 911 people", "call nine hundred eleven people"),
        ("a 911 call", "a nine one one call"),
        ("the emergency number 112", "the emergency number one one two"),
        ("(555) 010-7788", "five five five, zero one zero, seven seven eight eight"),
        ("call 555 1234", "call five five five, one two three four"),
        ("Ring 999 immediately", "Ring nine nine nine immediately"),
        ("+1-555-010-7788", "plus one, five five five, zero one zero, seven seven eight eight"),
        ("I made 911 calls", "I made nine hundred eleven calls"),
        ("We got 911 calls today", "We got nine hundred eleven calls today"),
        ("the 911 operator", "the nine one one operator"),
        ("112 emergency calls", "one hundred twelve emergency calls"),
        ("1000 call centers", "one thousand call centers"),
        ("a 911 call center", "a nine one one call center"),
        ("a 911 call comes in", "a nine one one call comes in"),
        ("called 100 new customers", "called one hundred new customers"),
        ("call 1000000 people", "call one million people"),
        ("Call 911 24 hours a day", "Call nine one one twenty-four hours a day"),
        ("Call 1234567 now", "Call one two three four five six seven now"),
        ("Call 1 800 555 0199", "Call one, eight zero zero, five five five, zero one nine nine"),
        ("We saw 1 800 555 0199", "We saw 1 800 555 0199"),
        ("call 030 123", "call zero three zero, one two three"),
        ("Your verification code is 482913.", "Your verification code is four eight two nine one three."),
        ("PIN 1234, OTP: 123456", "PIN one two three four, OTP: one two three four five six"),
        ("ZIP 10001, code 2024-05-03", "ZIP one zero zero zero one, code May third, twenty twenty-four"),
        ("I code 100 lines, code 12AB", "I code one hundred lines, code 12AB"),
        ("Your code 482913 expires", "Your code four eight two nine one three expires"),
    ],
    "german": [
        ("+49 30 1234567", "plus vier neun, drei null, eins zwei drei vier fünf sechs sieben"),
        ("Rufen Sie 112 an", "Rufen Sie eins eins zwei an"),
        ("die 112 wählen", "die eins eins zwei wählen"),
        ("Notruf 112", "Notruf eins eins zwei"),
        ("(030) 1234567", "null drei null, eins zwei drei vier fünf sechs sieben"),
        ("030 1234567", "null drei null, eins zwei drei vier fünf sechs sieben"),
        ("Rufen Sie 030 1234567 an", "Rufen Sie null drei null, eins zwei drei vier fünf sechs sieben an"),
        ("Tel.: 030 1234567", "Tel.: null drei null, eins zwei drei vier fünf sechs sieben"),
        ("Telefon 030 1234567", "Telefon null drei null, eins zwei drei vier fünf sechs sieben"),
        ("Telefon 030 1234567 Berlin", "Telefon null drei null, eins zwei drei vier fünf sechs sieben Berlin"),
        ("die 030 1234567 wählen", "die null drei null, eins zwei drei vier fünf sechs sieben wählen"),
        ("030 1234567-0", "null drei null, eins zwei drei vier fünf sechs sieben, null"),
        ("Tel. 030 1234567a", "Tel. 030 1234567a"),
        ("die 555 12345 anrufen", "die fünf fünf fünf, eins zwei drei vier fünf anrufen"),
        ("Rufen Sie 10 000 000 Kunden an", "Rufen Sie zehn Millionen Kunden an"),
        ("Wir haben 911 Anrufe", "Wir haben neunhundertelf Anrufe"),
        ("300 rufen an", "dreihundert rufen an"),
        ("TAN 123456, PIN 1234", "TAN eins zwei drei vier fünf sechs, PIN eins zwei drei vier"),
        ("030/1234567", "null drei null, eins zwei drei vier fünf sechs sieben"),
    ],
    "french": [
        ("+33 1 23 45 67 89", "plus trois trois, un, deux trois, quatre cinq, six sept, huit neuf"),
        ("01 23 45 67 89", "zéro un, deux trois, quatre cinq, six sept, huit neuf"),
        ("Appelez le 112", "Appelez le un un deux"),
        ("Appelez le 112 depuis un portable", "Appelez le un un deux depuis un portable"),
        ("J'ai reçu 911 appels", "J'ai reçu neuf cent onze appels"),
        ("Appelez 10 000 000 personnes", "Appelez dix millions personnes"),
        ("code postal : 75001", "code postal : sept cinq zéro zéro un"),
    ],
    "spanish": [
        ("Llame al 112 ahora", "Llame al uno uno dos ahora"),
        ("+34 600 123 456", "más tres cuatro, seis cero cero, uno dos tres, cuatro cinco seis"),
        ("Recibí 911 llamadas", "Recibí novecientas once llamadas"),
        ("Marca 100 goles", "Marca cien goles"),
        (
            "612 345 678, 91 123 45 67",
            "seis uno dos, tres cuatro cinco, seis siete ocho, nueve uno, uno dos tres, cuatro cinco, seis siete",
        ),
        ("El código es 4829", "El código es cuatro ocho dos nueve"),
    ],
    "portuguese": [
        ("Ligue 190", "Ligue um nove zero"),
        ("Recebi 911 chamadas", "Recebi novecentas e onze chamadas"),
        ("Ligue 190 apenas", "Ligue um nove zero apenas"),
        ("11 91234-5678", "um um, nove um dois três quatro, cinco seis sete oito"),
        ("11 3456-7890", "um um, três quatro cinco seis, sete oito nove zero"),
        ("CEP 01310-100", "CEP zero um três um zero, um zero zero"),
    ],
    "italian": [
        ("Chiama il 112", "Chiama il uno uno due"),
        ("Chiama 100 amici", "Chiama cento amici"),
        ("Chiamate 112 immediatamente", "Chiamate uno uno due immediatamente"),
        ("Ho ricevuto 911 chiamate", "Ho ricevuto novecentoundici chiamate"),
        ("333 1234567, CAP 00184", "tre tre tre, uno due tre quattro cinque sei sette, CAP zero zero uno otto quattro"),
        ("333-1234567", "tre tre tre, uno due tre quattro cinque sei sette"),
    ],
    "russian": [
        ("+7 495 123-45-67", "плюс семь, четыре девять пять, один два три, четыре пять, шесть семь"),
        ("Позвоните 112", "Позвоните один один два"),
        ("Позвонил 300 клиентам", "Позвонил триста клиентам"),
        ("911 звонков", "девятьсот одиннадцать звонков"),
        ("Телефон 8 800 555 35 35", "Телефон восемь, восемь ноль ноль, пять пять пять, три пять, три пять"),
        ("8 916 123-45-67", "восемь, девять один шесть, один два три, четыре пять, шесть семь"),
        ("8 916 123 45 67", "восемь, девять один шесть, один два три, четыре пять, шесть семь"),
        ("8-916-123-45-67", "восемь, девять один шесть, один два три, четыре пять, шесть семь"),
        ("Код: 4829", "Код: четыре восемь два девять"),
    ],
    "chinese": [
        ("拨打110", "拨打一一零"),
        ("打110个电话", "打一百一十个电话"),
        ("请拨打120急救", "请拨打一二零急救"),
        ("110报警", "一一零报警"),
        ("+86 138 0013 8000", "加八六，一三八，零零一三，八零零零"),
        ("致电50家公司", "致电五十家公司"),
        ("拨打110位客户", "拨打一百一十位客户"),
        ("电话：110。", "电话：一一零。"),
        ("138 1234 5678", "一三八，一二三四，五六七八"),
        ("138-1234-5678", "一三八，一二三四，五六七八"),
        ("验证码123456，密码是1234，尾号5678", "验证码一二三四五六，密码是一二三四，尾号五六七八"),
        ("电话12345678，密码10位", "电话一二三四五六七八，密码十位"),
    ],
    "japanese": [
        ("119に電話", "一一九に電話"),
        ("110番", "百十番"),
        ("内線123", "内線一二三"),
        ("03-1234-5678", "零三、一二三四、五六七八"),
        ("電話番号は10桁", "電話番号は十桁"),
        ("911件の電話", "九百十一件の電話"),
        ("暗証番号1234", "暗証番号一二三四"),
    ],
    "korean": [
        ("112에 신고", "일일이에 신고"),
        ("010-1234-5678", "영일영, 일이삼사, 오육칠팔"),
        ("내선 123", "내선 일이삼"),
        ("신고 전화 911건", "신고 전화 구백십일건"),
        ("인증번호 123456", "인증번호 일이삼사오육"),
        ("1588-1234, 1600-1700", "일오팔팔, 일이삼사, 천육백에서 천칠백"),
    ],
}


DOCUMENTED = {
    "english": [
        "1,234", ".5", "-3", "007", "1234567890", "5-10%", "$5-$10", "5–10 km", "10^6", "10⁶", "1/2", "3 1/2", "2½",
        "3rd", "$674.03", "$.99", "A$50", "¥5", "$5 dollars", "$5 CAD", "5 km", "5km", "20 °C", "100 km/h", "16 GB",
        "5 m²", "2024-05-03", "3 May 2024", "5/3/2024", "in 1999", "Year 1999 and 2024", "the 1990s", "1066 AD",
        "14:30", "3:05 p.m.", "+1 (555) 010-7788", "555-123-4567", "030 1234567", "Call 911", "name@example.org",
        "www.example.org/a", "Chapter IV", "Louis XIV", "World War II",
    ],
    "german": [
        "1.234", ",5", "-3", "007", "1234567890", "5-10%", "5–10 km", "10^6", "10⁶", "3 1/2", "2½", "im 3. Stock",
        "674,03 €", "5 Mio. €", "A$50", "R$ 1", "5 km", "5km", "20 °C", "100 km/h", "16 GB", "5 m²", "2024-05-03",
        "am 3. Mai", "3. Mai 2024", "in 1999", "14:30", "14.30 Uhr", "+1 (555) 010-7788", "555-123-4567",
        "030 1234567", "Notruf 112", "name@example.org", "www.example.org/a",
    ],
    "french": [
        "1 234", ",5", "-3", "007", "1234567890", "5-10%", "5–10 km", "10^6", "10⁶", "3e", "674,03 €", "A$50",
        "5 km", "20 °C", "100 km/h", "5 m²", "2024-05-03", "3 mai 2024", "14:30", "14h30", "+1 (555) 010-7788",
        "555-123-4567", "030 1234567", "01 23 45 67 89", "Appelez le 112", "name@example.org", "www.example.org/a",
        "XXe siècle", "Chapitre IV",
    ],
    "spanish": [
        "1.234", ",5", "-3", "007", "1234567890", "5-10%", "5–10 km", "10^6", "3.º", "21 personas", "674,03 €",
        "A$50", "5 km", "20 °C", "100 km/h", "2024-05-03", "3 de mayo de 2024", "14:30", "+1 (555) 010-7788",
        "555-123-4567", "030 1234567", "Llame al 112", "name@example.org", "www.example.org/a", "siglo XX",
    ],
    "portuguese": [
        "1.234", ",5", "-3", "007", "1234567890", "5-10%", "5–10 km", "10^6", "3.º", "674,03 €", "R$ 1", "5 km",
        "20 °C", "100 km/h", "2024-05-03", "3 de maio de 2024", "14:30", "14h30", "+1 (555) 010-7788",
        "555-123-4567", "030 1234567", "Ligue 190", "name@example.org", "www.example.org/a", "século XX",
    ],
    "italian": [
        "1.234", ",5", "-3", "007", "1234567890", "5-10%", "5–10 km", "10^6", "3º", "674,03 €", "5 km", "20 °C",
        "100 km/h", "2024-05-03", "3 maggio 2024", "14:30", "+1 (555) 010-7788", "555-123-4567", "030 1234567",
        "Chiama il 112", "name@example.org", "www.example.org/a", "secolo XX",
    ],
    "russian": [
        "1 234", "3,14", ",5", "-3", "007", "1234567890", "5-10%", "5–10 км", "10^6", "3-й", "674,03 €", "5 км",
        "20 °C", "100 км/ч", "2024-05-03", "3 мая 2024", "14:30", "+1 (555) 010-7788", "555-123-4567",
        "030 1234567", "Позвоните 112", "name@example.org", "www.example.org/a", "XX век",
    ],
    "chinese": [
        "1,234", ".5", "-3", "007", "1234567890", "5-10%", "5~10%", "5–10 km", "10^6", "1/2", "3 1/2", "2½", "2个",
        "$674.03", "A$50", "￥100元", "5 km", "20 °C", "100 km/h", "2024-05-03", "2024年5月3日", "1999-2024年", "14:30",
        "+1 (555) 010-7788", "555-123-4567", "030 1234567", "拨打110", "name@example.org", "www.example.org/a",
        "第IV章",
    ],
    "japanese": [
        "1,234", ".5", "-3", "007", "1234567890", "5-10%", "5~10%", "5–10 km", "10^6", "1/2", "3 1/2", "2½",
        "$674.03", "A$50", "5 km", "20 °C", "100 km/h", "2024-05-03", "2024年5月3日", "14:30", "+1 (555) 010-7788",
        "555-123-4567", "030 1234567", "110番", "119に電話", "name@example.org", "www.example.org/a", "第IV章",
    ],
    "korean": [
        "1,234", ".5", "-3", "007", "1234567890", "5-10%", "5~10%", "5–10 km", "10^6", "1/2", "3 1/2", "2½", "3개",
        "3번째", "$674.03", "A$50", "5 km", "20 °C", "100 km/h", "2024-05-03", "2024년 5월 3일", "14:30",
        "+1 (555) 010-7788", "555-123-4567", "030 1234567", "112에 신고", "name@example.org", "www.example.org/a",
        "제IV장",
    ],
}  # fmt: skip
"""Of the table in docs/chunking.md, as each language writes them."""

SENTENCES = {
    "english": [
        "It says {} and more.", "They read {}, then left.", "Is it {}?", "Note: {}!", "Telephone {} please",
    ],
    "german": [
        "Hier steht {} und mehr.", "Man liest {}, dann nichts.", "Lautet es {}?", "Rufen Sie {} an.", "Tel.: {}",
        "Telefon {}.",
    ],
    "french": [
        "On lit {} et plus.", "Il dit {}, puis rien.", "Est-ce {} ?", "Tél. : {}!", "Appelez {} maintenant.",
    ],
    "spanish": [
        "Aquí pone {} y más.", "Se lee {}, luego nada.", "¿Es {}?", "Teléfono: {}.",
    ],
    "portuguese": [
        "Aqui diz {} e mais.", "Lê-se {}, depois nada.", "É isso {}?", "Telefone: {}.",
    ],
    "italian": [
        "Qui leggo {} e basta.", "Si legge {}, poi niente.", "Sarebbe {}?", "Numero: {}.",
    ],
    "russian": [
        "Здесь написано {} и точка.", "Читаем {}, потом ничего.", "Это {}?", "Телефон: {}.",
    ],
    "chinese": [
        "这里写着{}和别的。", "读作{}，然后没有了。", "是{}吗？", "电话：{}。",
    ],
    "japanese": [
        "ここに{}と書いてある。", "それは{}、次は何。", "これは{}ですか？", "電話番号：{}。",
    ],
    "korean": [
        "여기에 {} 그리고 끝.", "글에는 {}, 다음은 없다.", "혹시 {}?", "전화번호: {}.",
    ],
}  # fmt: skip
"""With a word before, a word after, or a mark behind; some have a word for calling, which changes no other form."""


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled


@pytest.mark.parametrize(
    ("language", "written"), [(language, form) for language, forms in DOCUMENTED.items() for form in forms]
)
def test_a_documented_form_is_read_in_a_sentence_as_it_is_alone(language, written):
    alone = normalize(written, language)
    assert alone != written
    for sentence in SENTENCES[language]:
        assert normalize(sentence.format(written), language) == sentence.format(alone)
