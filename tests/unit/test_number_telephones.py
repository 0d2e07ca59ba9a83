"""Telephone numbers, and short numbers where the text tells somebody to call them."""

import pytest

from serve_app.spoken_numbers import spell

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
    ],
    "german": [
        ("+49 30 1234567", "plus vier neun, drei null, eins zwei drei vier fünf sechs sieben"),
        ("Rufen Sie 112 an", "Rufen Sie eins eins zwei an"),
        ("die 112 wählen", "die eins eins zwei wählen"),
        ("Notruf 112", "Notruf eins eins zwei"),
        ("(030) 1234567", "null drei null, eins zwei drei vier fünf sechs sieben"),
        ("030 1234567", "null drei null, eins zwei drei vier fünf sechs sieben"),
    ],
    "french": [
        ("+33 1 23 45 67 89", "plus trois trois, un, deux trois, quatre cinq, six sept, huit neuf"),
        ("01 23 45 67 89", "zéro un, deux trois, quatre cinq, six sept, huit neuf"),
        ("Appelez le 112", "Appelez le un un deux"),
    ],
    "spanish": [
        ("Llame al 112 ahora", "Llame al uno uno dos ahora"),
        ("+34 600 123 456", "más tres cuatro, seis cero cero, uno dos tres, cuatro cinco seis"),
    ],
    "portuguese": [
        ("Ligue 190", "Ligue um nove zero"),
    ],
    "italian": [
        ("Chiama il 112", "Chiama il uno uno due"),
    ],
    "russian": [
        ("+7 495 123-45-67", "плюс семь, четыре девять пять, один два три, четыре пять, шесть семь"),
        ("Позвоните 112", "Позвоните один один два"),
    ],
    "chinese": [
        ("拨打110", "拨打一一零"),
        ("打110个电话", "打一百一十个电话"),
        ("请拨打120急救", "请拨打一二零急救"),
        ("110报警", "一一零报警"),
        ("+86 138 0013 8000", "加八六，一三八，零零一三，八零零零"),
    ],
    "japanese": [
        ("119に電話", "一一九に電話"),
        ("110番", "百十番"),
        ("内線123", "内線一二三"),
        ("03-1234-5678", "零三、一二三四、五六七八"),
    ],
    "korean": [
        ("112에 신고", "일일이에 신고"),
        ("010-1234-5678", "영일영, 일이삼사, 오육칠팔"),
        ("내선 123", "내선 일이삼"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert spell(text, language) == spelled
