import json
from base64 import b64decode, b64encode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from serve_app.protocol.messages import (
    LANGUAGES,
    MAX_SEED,
    Cancel,
    Flush,
    Preset,
    RawSpeak,
    Refusal,
    Speak,
    SpeechBody,
    Start,
    Stop,
    Synthesize,
    error_message,
    read_full,
    read_presets,
    read_raw,
    read_research,
    read_speech,
)
from serve_app.text.characters import visible


def _refused(read, message):
    frame = message if isinstance(message, str | bytes) else json.dumps(message)
    result = read(frame)
    assert isinstance(result, Refusal), result
    return result


def _says(read, message, code, *parts):
    refusal = _refused(read, message)
    assert refusal.error.code == code
    for part in parts:
        assert part in refusal.error.message
    return refusal


def test_every_message_of_the_full_dialect_is_read():
    assert read_full('{"type": "start", "voice": "makima"}') == Start(voice="makima")
    assert read_full('{"type": "speak", "text": "Hi"}') == Speak(text="Hi")
    assert read_full('{"type": "flush", "utterance_id": "a"}') == Flush(utterance_id="a")
    assert read_full('{"type": "cancel"}') == Cancel()
    assert read_full('{"type": "stop"}') == Stop()


def test_a_speak_may_carry_every_field_of_start():
    speak = read_full(
        json.dumps(
            {
                "type": "speak",
                "text": "Hi",
                "utterance_id": "a",
                "final": False,
                "voice": "makima",
                "language": "German",
                "encoding": "pcm_f32",
                "sample_rate": 24000,
                "transport": "base64",
                "seed": MAX_SEED,
                "sampling": {"temperature": 0, "top_k": 0, "top_p": 1, "repetition_penalty": 1.05},
                "priority": "high",
                "normalize": True,
            }
        )
    )
    assert isinstance(speak, Speak)
    assert speak.language == "german"
    assert speak.sampling is not None
    assert speak.sampling.temperature == 0


@pytest.mark.parametrize("language", ["English", "english", "ENGLISH", " english "])
def test_a_language_is_named_in_any_case(language):
    assert read_full(json.dumps({"type": "start", "language": language})) == Start(language="english")
    request = read_research(json.dumps({"text": "Hi", "language": language}))
    assert isinstance(request, Synthesize)
    assert request.language == "english"


@pytest.mark.parametrize("read", [read_full, read_research])
def test_a_wrong_language_lists_those_that_are_served(read):
    kind = "speak" if read is read_full else "synthesize"
    _says(read, {"type": kind, "text": "x", "language": "Klingon"}, "UNSUPPORTED_LANGUAGE", "Klingon", *LANGUAGES)


@pytest.mark.parametrize(
    ("field", "value"), [("encoding", "mp3"), ("encoding", "Opus"), ("encoding", "flac"), ("sample_rate", 44100)]
)
def test_a_wrong_encoding_or_rate_lists_what_is_served(field, value):
    served = ["pcm16", "pcm_f32"] if field == "encoding" else ["24000"]
    _says(read_full, {"type": "start", field: value}, "UNSUPPORTED_ENCODING", str(value), *served)


@pytest.mark.parametrize(
    ("field", "wrong", "allowed"),
    [
        ("temperature", 2.1, "a number from 0 to 2"),
        ("temperature", -0.1, "a number from 0 to 2"),
        ("temperature", "hot", "a number from 0 to 2"),
        ("top_k", 2049, "from 0 to 2048"),
        ("top_k", 1.5, "from 0 to 2048"),
        ("top_p", 0, "above 0, up to 1"),
        ("top_p", 1.1, "above 0, up to 1"),
        ("repetition_penalty", 0.4, "from 0.5 to 2"),
    ],
)
def test_sampling_out_of_range_says_the_range(field, wrong, allowed):
    message = {"type": "speak", "text": "x", "sampling": {field: wrong}}
    _says(read_full, message, "INVALID_MESSAGE", f"sampling.{field}", allowed, json.dumps(wrong))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, "7", True])
def test_a_seed_is_an_integer_that_json_keeps_exact(seed):
    _says(read_full, {"type": "start", "seed": seed}, "INVALID_MESSAGE", "seed", str(MAX_SEED))


def test_an_unknown_field_is_named_with_those_that_are_known():
    _says(read_full, {"type": "speak", "text": "x", "pitch": 1}, "INVALID_MESSAGE", "pitch", "utterance_id", "voice")
    wrong = {"type": "speak", "text": "x", "sampling": {"topk": 1}}
    _says(read_full, wrong, "INVALID_MESSAGE", "sampling.topk", "'sampling' of 'speak'", "top_k")


def test_the_research_dialect_ignores_unknown_fields_and_reads_a_missing_type():
    assert read_research('{"text": "Hi", "pitch": 1}') == Synthesize(text="Hi")
    assert read_research('{"type": null, "text": "Hi"}') == Synthesize(text="Hi")
    _says(read_research, {"voice": "makima"}, "INVALID_MESSAGE", "no type", "synthesize")


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00"])
def test_a_lone_surrogate_is_accepted_in_every_dialect_and_can_be_encoded(half):
    for read, frame in (
        (read_full, f'{{"type": "speak", "text": "Hi {half} you"}}'),
        (read_raw, f'{{"type": "speak", "text": "Hi {half} you"}}'),
        (read_research, f'{{"text": "Hi {half} you"}}'),
    ):
        text = read(frame).text
        assert (len(text), visible(text)) == (8, "Hi  you")
        assert text.encode()
    body = read_speech(f'{{"input": "Hi {half}", "voice": "{half}", "model": "{half}", "instructions": "{half}"}}')
    assert body.model_dump_json().encode()
    refusal = _refused(read_full, f'{{"type": "speak", "text": "Hi", "language": "{half}", "utterance_id": "{half}"}}')
    assert error_message(refusal.error, refusal.utterance_id).to_json().encode()


@pytest.mark.parametrize(
    ("frame", "part"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"type": "speak", "text": NaN}', "not valid JSON"),
        ('{"type": "speak", "text": "\\ud800", "seed": NaN}', "not valid JSON"),
        ('{"type": "speak", "text": "\\ud80"}', "not valid JSON"),
        ("[" * 10_000, "not valid JSON"),
        ("[" * 10_000 + '"\\ud83d"', "not valid JSON"),
        ("[]", "an array"),
        ("null", "null"),
        ('"speak"', "a string"),
        ("7", "a number"),
        ("{}", "no type"),
        ('{"type": "sing"}', '"sing"'),
        ('{"type": ["speak"]}', "speak"),
        ('{"type": {}}', "not known"),
        (b"\x00\x01", "binary"),
    ],
)
def test_what_is_not_a_message_gets_an_error_that_says_what_it_is(frame, part):
    _says(read_full, frame, "INVALID_MESSAGE", part)


def test_a_wrong_speak_names_its_utterance_where_it_can_be_read():
    assert _refused(read_full, {"type": "speak", "utterance_id": "a"}).utterance_id == "a"
    assert _refused(read_full, {"type": "speak", "text": "x", "utterance_id": 7}).utterance_id is None


@pytest.mark.parametrize("utterance_id", ["", "x" * 129, "a\nb", "é", 7])
def test_an_utterance_id_is_short_printable_ascii(utterance_id):
    message = {"type": "speak", "text": "x", "utterance_id": utterance_id}
    _says(read_full, message, "INVALID_MESSAGE", "utterance_id", "1 to 128 printable ASCII")


def test_a_long_value_is_shortened_in_the_error():
    refusal = _refused(read_full, {"type": "start", "voice": "x" * 100_000})
    assert len(refusal.error.message) < 200


def test_presets_are_the_fields_of_start():
    query = [("voice", "makima"), ("language", "German"), ("seed", "7"), ("temperature", "0.5"), ("top_k", "10")]
    preset = read_presets(query)
    assert isinstance(preset, Start)
    assert (preset.voice, preset.language, preset.seed) == ("makima", "german", 7)
    assert preset.sampling is not None
    assert (preset.sampling.temperature, preset.sampling.top_k) == (0.5, 10)
    assert read_presets([("normalize", "true"), ("speed", "1.5")]) == Preset(normalize=True, speed=1.5)
    assert read_presets([("normalize", "false"), ("words", "true")]) == Preset(normalize=False, words=True)


@pytest.mark.parametrize("wrong", [0, 0.49, 2.01, -1, "1", True, [], "fast"])
def test_speed_is_a_number_from_a_half_to_two(wrong):
    _says(read_full, {"type": "speak", "text": "x", "speed": wrong}, "INVALID_MESSAGE", "speed must be", "0.5 to 2")


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ([], "lexicon must be an object of at most 100 entries"),
        ("sql", 'given: "sql"'),
        ({"sql": 5}, 'the entry "sql" of lexicon is wrong; allowed: an object of at most 100'),
        ({"sql": ""}, 'the entry "sql"'),
        ({"sql": "…"}, 'given: "…"'),
        ({"text": None}, 'the entry "text" of lexicon is wrong'),
        ({"sampling": {}}, 'the entry "sampling" of lexicon is wrong'),
        ({"sql": "x" * 201}, "1 to 200 characters"),
        ({"": "x"}, 'the entry "" of lexicon is wrong'),
        ({" \u200b": "x"}, "of lexicon is wrong"),
        ({"x" * 61: "x"}, "1 to 60 characters"),
        ({f"w{n}": "x" for n in range(101)}, "at most 100 entries"),
    ],
)
def test_a_wrong_lexicon_is_refused_by_its_entry(wrong, part):
    _says(read_full, {"type": "speak", "text": "x", "lexicon": wrong}, "INVALID_MESSAGE", part)
    _says(read_full, {"type": "start", "lexicon": wrong}, "INVALID_MESSAGE", part)
    refused = read_speech(json.dumps({"input": "x", "lexicon": wrong}))
    assert isinstance(refused, Refusal)
    assert part in refused.error.message


def test_a_lexicon_is_an_object_of_up_to_a_hundred_entries():
    entries = {f"w{n}": "x" for n in range(100)}
    assert read_full(json.dumps({"type": "start", "lexicon": entries})) == Start(lexicon=entries)
    assert read_full('{"type": "start", "lexicon": null}') == Start()
    assert read_full('{"type": "start", "lexicon": {}}') == Start(lexicon={})
    query = read_presets([("lexicon", "{}")])
    assert isinstance(query, Refusal)
    assert "lexicon is not accepted in a query" in query.error.message


@pytest.mark.parametrize("field", ["normalize", "words"])
@pytest.mark.parametrize("wrong", ["true", 1, 0.5, []])
def test_normalize_and_words_are_true_or_false(field, wrong):
    _says(read_full, {"type": "speak", "text": "x", field: wrong}, "INVALID_MESSAGE", field, "true or false")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("seed", "x", "INVALID_MESSAGE"),
        ("seed", "true", "INVALID_MESSAGE"),
        ("normalize", "yes", "INVALID_MESSAGE"),
        ("normalize", "1", "INVALID_MESSAGE"),
        ("words", "1", "INVALID_MESSAGE"),
        ("seed", "", "INVALID_MESSAGE"),
        ("pitch", "1", "INVALID_MESSAGE"),
        ("type", "stop", "INVALID_MESSAGE"),
        ("sampling", "{}", "INVALID_MESSAGE"),
        ("sample_rate", "44100", "UNSUPPORTED_ENCODING"),
        ("language", "Klingon", "UNSUPPORTED_LANGUAGE"),
        ("temperature", "9", "INVALID_MESSAGE"),
        ("speed", "3", "INVALID_MESSAGE"),
        ("speed", "0.4", "INVALID_MESSAGE"),
        ("speed", "fast", "INVALID_MESSAGE"),
        ("speed", "NaN", "INVALID_MESSAGE"),
    ],
)
def test_a_wrong_preset_is_refused_by_name(name, value, code):
    preset = read_presets([(name, value)])
    assert isinstance(preset, Refusal)
    assert preset.error.code == code


def test_raw_framing_is_lenient():
    assert read_raw('{"type": "speak", "text": "Hi", "rate": 2}') == RawSpeak(type="speak", text="Hi")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from([*Speak.model_fields, "temperature", "unknown"])


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.tuples(
        st.sampled_from(["start", "speak", "flush", "cancel", "stop", "synthesize"]),
        st.dictionaries(FIELDS, JSON, max_size=5),
    ).map(lambda pair: json.dumps({**pair[1], "type": pair[0]}))
)
def test_whatever_comes_is_a_message_or_a_typed_refusal(frame):
    for read in (read_full, read_raw, read_research):
        result = read(frame)
        if isinstance(result, Refusal):
            assert result.error.code in {"INVALID_MESSAGE", "UNSUPPORTED_LANGUAGE", "UNSUPPORTED_ENCODING"}
            result.error.message.encode()
        else:
            assert isinstance(result, BaseModel)


READERS = {
    Start: (read_full, {"type": "start"}),
    Speak: (read_full, {"type": "speak", "text": "Hi"}),
    Flush: (read_full, {"type": "flush"}),
    Cancel: (read_full, {"type": "cancel"}),
    Synthesize: (read_research, {"type": "synthesize", "text": "Hi"}),
    RawSpeak: (read_raw, {"type": "speak", "text": "Hi"}),
    SpeechBody: (read_speech, {"input": "Hi"}),
}


@pytest.mark.parametrize("model", READERS)
def test_an_explicit_null_is_the_same_as_leaving_a_field_out(model):
    read, least = READERS[model]
    plain = read(json.dumps(least))
    optional = set(model.model_fields) - set(least)
    for name in optional:
        assert read(json.dumps(least | {name: None})) == plain, name
    assert read(json.dumps(least | dict.fromkeys(optional))) == plain


@pytest.mark.parametrize("read", [read_full, read_speech])
def test_a_null_inside_an_object_is_left_out_too(read):
    least = {"type": "speak", "text": "Hi", "input": "Hi"}
    least.pop("input" if read is read_full else "type")
    message = read(json.dumps(least | {"sampling": {"temperature": None, "top_k": 3}}))
    assert (message.sampling.temperature, message.sampling.top_k) == (None, 3)


@pytest.mark.parametrize(
    ("read", "message", "part"),
    [
        (read_full, {"type": "speak", "text": None}, "'speak' needs text: a string"),
        (read_research, {"type": "synthesize", "text": None}, "'synthesize' needs text: a string"),
        (read_speech, {"input": None}, "'speech' needs input: a string"),
        (read_full, {"type": None}, "type null is not known"),
        (read_full, {"type": "speak", "text": "Hi", "txt": None}, "unknown field txt in 'speak'"),
    ],
)
def test_a_null_in_the_place_of_what_is_required_or_unknown_is_still_a_fault(read, message, part):
    _says(read, message, "INVALID_MESSAGE", part)


@pytest.mark.parametrize("model", READERS)
@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_voice_or_language_is_the_same_as_leaving_it_out(model, blank):
    read, least = READERS[model]
    plain = read(json.dumps(least))
    for name in {"voice", "language"} & set(model.model_fields):
        assert read(json.dumps(least | {name: blank})) == plain, name


def test_a_blank_voice_or_language_is_left_out_of_a_query_and_under_other_names():
    assert read_presets([("voice", ""), ("language", " ")]) == Preset()
    for fields in ({"speaker": ""}, {"voice": {"id": " "}}, {"voice": "", "language": ""}):
        assert read_speech(json.dumps({"input": "Hi"} | fields)) == SpeechBody(input="Hi")
    assert read_speech('{"input": "Hi", "voice": "", "speaker": "austen"}').voice == "austen"
    _says(read_full, {"type": "speak", "text": "Hi", "speaker": ""}, "INVALID_MESSAGE", "unknown field speaker")


@pytest.mark.parametrize(
    ("name", "number"), [("seed", 5.0), ("seed", -0.0), ("sample_rate", 16000.0), ("top_k", 5.0), ("temperature", 1.0)]
)
def test_an_integral_float_is_an_integer(name, number):
    fields = {"sampling": {name: number}} if name in ("top_k", "temperature") else {name: number}
    for read, least in (
        (read_full, {"type": "start"}),
        (read_full, {"type": "speak", "text": "Hi"}),
        READERS[SpeechBody],
    ):
        meant = read(json.dumps(least | fields))
        meant = meant.sampling if "sampling" in fields else meant
        assert getattr(meant, name) == number
        assert isinstance(getattr(meant, name), float if name == "temperature" else int)
    assert read_presets([(name, str(number))]) == Preset(**fields)


@pytest.mark.parametrize("wrong", [5.5, True, False, "5", 1e300, -5.0, 9007199254740992.0])
@pytest.mark.parametrize("name", ["seed", "sample_rate", "top_k"])
def test_any_other_number_is_not_an_integer(name, wrong):
    fields = {"sampling": {name: wrong}} if name == "top_k" else {name: wrong}
    for read, least in ((read_full, {"type": "start"}), READERS[SpeechBody]):
        assert isinstance(read(json.dumps(least | fields)), Refusal)


def test_an_empty_list_of_what_is_not_taken_asks_for_nothing():
    assert read_speech('{"input": "Hi", "references": [], "speaker_embedding": []}') == SpeechBody(input="Hi")


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00"])
@pytest.mark.parametrize(
    ("field", "code"),
    [
        ('"language": "%s"', "UNSUPPORTED_LANGUAGE"),
        ('"encoding": "%s"', "UNSUPPORTED_ENCODING"),
        ('"priority": "é%s"', "INVALID_MESSAGE"),
        ('"%s": 1', "INVALID_MESSAGE"),
    ],
)
def test_a_lone_surrogate_is_shown_as_it_was_sent(field, code, half):
    refusal = _says(read_full, '{"type": "speak", "text": "Hi", ' + field % half + "}", code, half)
    assert "\\udb" not in refusal.error.message


@pytest.mark.parametrize("model", READERS)
def test_a_byte_order_mark_before_a_message_is_dropped(model):
    read, least = READERS[model]
    assert read("\ufeff" + json.dumps(least)) == read(json.dumps(least))


def test_a_byte_order_mark_anywhere_else_is_text():
    assert read_full('{"type": "speak", "text": "\ufeff"}') == Speak(text="\ufeff")
    _says(read_full, '\ufeff\ufeff{"type": "stop"}', "INVALID_MESSAGE", "not valid JSON")


@pytest.mark.parametrize(
    "given_clip",
    [
        "UklGRg==",
        " UklG\r\nRg==\n",
        "data:audio/wav;base64,UklGRg==",
        "DATA:;base64,UklGRg==",
        "UklGRg",
        "UklGRg=",
        "data:audio/wav;base64,UklGRg",
        "data:audio/webm;codecs=opus;base64,UklGRg%3D%3D",
    ],
)
def test_a_clip_is_base64_or_a_data_url(given_clip):
    assert read_full(json.dumps({"type": "start", "voice_audio": given_clip})).voice_audio == "UklGRg=="
    assert read_speech(json.dumps({"input": "Hi", "ref_audio": given_clip})).reference() == Start(
        voice_audio="UklGRg=="
    )


@given(st.binary(), st.sampled_from([b64encode, urlsafe_b64encode]), st.integers(0, 2))
def test_a_clip_is_read_in_either_alphabet_of_base64_padded_or_not(audio, encode, kept):
    audio = b"RIFF" + audio
    sent = encode(audio).decode()
    sent = sent.rstrip("=") + "=" * min(kept, sent.count("="))
    for clip in (f"data:audio/wav;base64,{sent}", sent):
        assert b64decode(Start(voice_audio=clip).voice_audio, validate=True) == audio


@pytest.mark.parametrize(
    "address",
    [
        "/tmp/x.wav",
        "/etc/passwd",
        "voices/a/clip.mp3",
        "clip.wav",
        "not base64!",
        "UklGR",
        "Ukl=GRg=",
        "=",
        "UklGRg===",
        "http://127.0.0.1/a.wav",
        "https://example.org/a.wav",
        "file:///etc/passwd",
        "s3://a/b",
        "data:audio/wav,abc",
        "data:;base64,",
        "C:\\a",
    ],
)
def test_no_address_is_taken_for_a_clip(address):
    for read, message, name in (
        (read_full, {"type": "start"}, "voice_audio"),
        (read_speech, {"input": "Hi"}, "ref_audio"),
    ):
        _says(read, message | {name: address}, "INVALID_MESSAGE", f"{name} must be a clip as base64", "no other URL")


def test_a_reference_in_the_fields_of_other_servers_is_a_voice_for_one_answer():
    body = {"input": "Hi", "speaker": "austen", "task_type": "Base", "ref_audio": "UklGRg==", "ref_text": "Words."}
    asked = read_speech(json.dumps(body))
    assert asked.voice == "austen"
    assert asked.reference() == Start(voice_audio="UklGRg==", voice_transcript="Words.")
    alone = read_speech(json.dumps(body | {"x_vector_only_mode": True}))
    assert alone.reference() == Start(voice_audio="UklGRg==")
    assert read_speech('{"input": "Hi", "ref_text": "Words."}').reference() is None


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("task_type", "VoiceDesign", '"Base" or "CustomVoice"'),
        ("references", [{"audio_path": "a.wav", "text": "a"}], "ref_audio and ref_text"),
        ("speaker_embedding", [0.5], "ref_audio"),
        ("ref_text", "x" * 2001, "at most 2000"),
        ("speaker", 5, "a voice's id"),
    ],
)
def test_what_asks_for_a_voice_that_the_answer_would_not_have_is_refused(name, value, part):
    _says(read_speech, {"input": "Hi", name: value}, "INVALID_MESSAGE", name, part)


def test_a_format_is_named_in_any_case():
    assert read_speech('{"input": "Hi", "response_format": "MP3"}').response_format == "mp3"
