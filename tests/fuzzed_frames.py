"""What every client sends, and what none should, in one order that is always the same.

Hypothesis makes frames from strategies; more are bred from them, two at a time, by seeded random numbers, which costs
a hundredth. All are made before anything is sent, so that their number and order do not depend on the answers.
"""

import contextlib
import json
import random
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Sent:
    """One WebSocket message of a client.

    Attributes:
        data: its payload.
        text: it claims to be UTF-8.
        pieces: frames that it is sent in.
    """

    data: bytes
    text: bool = True
    pieces: int = 1


IDS = st.sampled_from(["a", "b", "c"])
WORDS = st.sampled_from(
    ["Hi.", "No", " and", " yes. ", "¿Qué? ", "你好。", "…", "**", "# 1. ", "`", "<b>", "\u200b", "3.5%"]
)
TEXTS = st.one_of(
    WORDS,
    st.text("0123456789.,:/-+%€$½³²° '٣４年", max_size=30),
    st.lists(WORDS, max_size=6).map("".join),
    st.text(max_size=30),
    st.sampled_from(["word " * 900, "word " * 1100, "." * 3000, "的" * 2000, "[(" * 1500, "\n" * 4000, "*" * 4999]),
)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-1, 0, 2**53, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), TEXTS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    "voice": st.sampled_from(["austen", "makima", "nobody", "", "a" * 101, "../austen", "austen\0"]),
    "language": st.sampled_from(["English", "german", " AUTO ", "latin", "", "中文"]),
    "encoding": st.sampled_from(["pcm16", "pcm_f32", "opus", "mulaw", "wav"]),
    "sample_rate": st.sampled_from([24_000, 8000, 48_000, 24_001, "24000"]),
    "transport": st.sampled_from(["binary", "base64", "text"]),
    "seed": st.sampled_from([0, 7, 2**53 - 1, 2**53, -1, 1.5, True]),
    "priority": st.sampled_from(["low", "normal", "high", "urgent"]),
    "normalize": st.sampled_from([True, False, "true", 1]),
    "sampling": st.dictionaries(
        st.sampled_from(["temperature", "top_k", "top_p", "repetition_penalty", "beam"]), NUMBERS, max_size=3
    ),
    "speed": st.sampled_from([0.5, 1.5, 2, 2.1, "1", None]),
    "prompt": st.sampled_from(["streaming", "whole", "half"]),
    "words": st.sampled_from([True, False, "yes"]),
    "lexicon": st.dictionaries(st.sampled_from(["Hi", "word", "", " a "]), st.text(max_size=5), max_size=2),
}
SPEAK_FIELDS = {"utterance_id": IDS, "final": st.booleans(), **FIELDS}


def message(kind, required=None, optional=None):
    return st.fixed_dictionaries({"type": st.just(kind), **(required or {})}, optional=optional or {})


FULL = st.one_of(
    message("start", optional=FIELDS),
    message("speak", {"text": TEXTS}),
    message("speak", {"text": TEXTS, "utterance_id": IDS, "final": st.booleans()}),
    message("speak", {"text": TEXTS}, SPEAK_FIELDS),
    message("flush", optional={"utterance_id": IDS}),
    message("cancel", optional={"utterance_id": IDS}),
)
RAW = st.one_of(
    message("speak", {"text": TEXTS}),
    message("speak", {"text": TEXTS}, {"voice": FIELDS["voice"], "volume": LEAVES}),
    message("cancel"),
)
RESEARCH = message(
    "synthesize",
    # What is spoken here cannot be taken back: most of it has nothing to speak.
    {"text": st.sampled_from([*[""] * 7, " ", "…", "**", "a" * 20_001, "Hi."])},
    {"voice": FIELDS["voice"], "language": FIELDS["language"], "stream": st.booleans(), "mood": LEAVES},
)
STREAM_FIELDS = {
    **{name: FIELDS[name] for name in ("voice", "language", "sample_rate", "seed", "normalize", "speed", "lexicon")},
    "timestamp_type": st.sampled_from(["word", "character", ""]),
    "word_timestamps": st.sampled_from([True, False]),
    "response_format": st.sampled_from(["pcm", "wav", "mp3", 7]),
    "stream_audio": st.sampled_from([True, False, "yes"]),
    "ref_audio": st.sampled_from(["https://example.com/a.wav", "voices/austen/reference.wav", "", "AAAA"]),
    "task_type": st.sampled_from(["Base", "CustomVoice", "VoiceDesign"]),
    "non_streaming_mode": st.booleans(),
    "session": st.dictionaries(st.sampled_from(["voice", "type", "stream_audio"]), LEAVES, max_size=2),
    "max_new_tokens": LEAVES,
}
STREAM = st.one_of(
    message("session.config", optional=STREAM_FIELDS),
    # What is flushed here cannot be taken back: most of it has nothing to speak.
    *[message("input.text", {"text": st.sampled_from(["", " ", "…", "**", "Hi.", "a" * 20_001, " and", "\ud800"])})]
    * 2,
    *[message("input.done", optional={"utterance_id": IDS})] * 2,
    message("input.commit"),
)
DEEPGRAM = st.one_of(
    *[message("Speak", {"text": TEXTS}, {"utterance_id": IDS})] * 3, *[message("Flush")] * 2, message("Clear")
)
ALL_NAMES = st.sampled_from(["type", "text", "voice", "utterance_id", "final", "stream", *FIELDS, "sampling", "extra"])


@st.composite
def mutated(draw, messages):
    """A valid message with fields replaced, removed, renamed, added or wrapped."""
    fields = dict(draw(messages))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*fields, "type", "text", "extra"]))
        match draw(st.sampled_from(["replace", "remove", "rename", "add", "wrap"])):
            case "replace":
                fields[name] = draw(VALUES)
            case "remove":
                fields.pop(name, None)
            case "rename":
                fields[draw(ALL_NAMES)] = fields.pop(name, None)
            case "add":
                fields[draw(st.text(max_size=12))] = draw(VALUES)
            case "wrap":
                fields[name] = draw(st.sampled_from([[fields.get(name)], {name: fields.get(name)}]))
    return fields


@st.composite
def damaged(draw, messages):
    """A valid message's JSON with a piece cut out, doubled or overwritten; some still hold."""
    written = json.dumps(draw(messages))
    start = draw(st.integers(0, len(written)))
    end = min(len(written), start + draw(st.integers(0, 12)))
    piece = draw(st.one_of(st.just(""), st.just(written[start:end] * 2), st.text(max_size=6)))
    return written[:start] + piece + written[end:]


@st.composite
def doubled(draw, messages):
    """A message that gives a field twice."""
    fields = draw(messages)
    name = draw(st.sampled_from(sorted(fields)))
    return f"{json.dumps(fields)[:-1]}, {json.dumps(name)}: {json.dumps(draw(VALUES))}}}"


def deep(depth, shape):
    opening, closing = {"array": ("[", "]"), "object": ('{"a":', "}"), "field": ('{"type":[', "]}")}[shape]
    return opening * depth + "1" + closing * depth


ODD = st.one_of(
    st.builds(deep, st.sampled_from([5, 150, 250, 5000]), st.sampled_from(["array", "object", "field"])),
    st.sampled_from(
        [
            "",
            "{",
            "null",
            "NaN",
            '{"type": NaN}',
            '{"type": 1e999}',
            '{"type": ' + "9" * 4300 + "}",
            '{"type": ' + "9" * 5000 + "}",
            '{"type": "\\ud800"}',
            '{"type": "speak", "text": "\\udc00"}',
            '{"type": "speak", "text": "\\u0000"}',
            '{"type": "speak", "text": "Hi.", "seed": ' + "9" * 4300 + "}",
            '{"type": "start", "sampling": {"temperature": 1e999}}',
            '\ufeff{"type": "start"}',
            '{"type": "start"}{"type": "start"}',
            " " * 70_000 + '{"type": "start"}',
            '{"type": "speak", "text": "' + "x" * 200_000 + '"}',
            '{"type": "speak", "text": "' + "x" * (1 << 20) + '"}',
            '{"type": "' + "y" * 100_000 + '"}',
            '{"' + "z" * 100_000 + '": 1, "type": "start"}',
            json.dumps({"type": "start", **{f"field-{number}": number for number in range(2000)}}),
        ]
    ),
)


def frames_of(messages):
    """One message of a client of a dialect: valid, nearly valid, or nothing like it."""
    written = st.one_of(
        *[messages.map(json.dumps)] * 3,
        messages.map(lambda fields: json.dumps(fields, ensure_ascii=False)),
        mutated(messages).map(json.dumps),
        mutated(messages).map(json.dumps),
        damaged(messages),
        doubled(messages),
        VALUES.map(json.dumps),
        st.text(max_size=100),
        ODD,
    )
    text = st.builds(Sent, written.map(encoded), st.just(True), st.sampled_from([1, 1, 1, 2, 5]))
    return st.one_of(*[text] * 9, st.builds(Sent, st.binary(max_size=100), st.just(False)))


def encoded(text):
    return text.encode("utf-8", "replace")


@dataclass(frozen=True)
class Conversation:
    """What one client sends.

    Attributes:
        dialect: a key of ``FRAMES``.
        query: of its address; what presets the fields of ``start``, and what does not.
        frames: one after another, without waiting for answers.
        pauses: before which of them the client waits a little, so that there is something to hear by then.
        ending: "ask": everything is answered first; "stop": politely, and goes on talking; "bytes": with a text
            frame that is not UTF-8; "leave": without a word.
    """

    dialect: str
    query: str
    frames: list[Sent]
    pauses: set[int]
    ending: str


FRAMES = {
    "full": frames_of(FULL),
    "raw": frames_of(RAW),
    "research": frames_of(RESEARCH),
    "stream": frames_of(STREAM),
    "deepgram": frames_of(DEEPGRAM),
}
ENDINGS = {
    "full": ["ask", "ask", "ask", "ask", "stop", "bytes", "leave"],
    "raw": ["ask", "ask", "ask", "ask", "stop", "bytes", "leave"],
    "research": ["ask", "ask", "leave", "leave", "bytes"],
    "stream": ["ask", "ask", "leave", "leave", "bytes"],
    "deepgram": ["ask", "ask", "ask", "ask", "bytes", "leave"],
}
QUERIES = [
    "voice=austen&language=German&seed=7&temperature=0.8",
    "encoding=pcm_f32&transport=base64&priority=low",
    "voice=&voice=austen",
    "normalize=true&language=french",
    "seed=1e999&top_k=-1&normalize=1",
    "seed=" + "9" * 4300,
    "temperature=NaN",
    "sampling={}&type=start",
    "loud=yes",
    "voice=%ff%00%zz&=&&;",
    "language=" + "%F0%9F%98%80" * 200,
]


DEEPGRAM_QUERIES = ["model=austen", "model=aura-2-thalia-en&mip_opt_out=true", "encoding=mulaw&loud=yes", "model=%20"]


def conversations(dialect, made, frames):
    """The same conversations in every run: about ``frames`` frames, ``made`` of them from strategies, the rest bred."""
    corpus = []

    @settings(
        max_examples=made,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(FRAMES[dialect])
    def collect(frame):
        corpus.append(frame)

    collect()
    dice = random.Random(dialect)
    queries = DEEPGRAM_QUERIES if dialect == "deepgram" else QUERIES
    everything = corpus + [bred(*dice.sample(corpus, 2), dice) for _ in range(frames - len(corpus))]
    dice.shuffle(everything)
    found = []
    while everything:
        length = dice.randint(10, 60)
        pauses = {dice.randrange(length) for _ in range(dice.choice([0, 1, 3]))}
        query, ending = dice.choice(["", "", *queries]), dice.choice(ENDINGS[dialect])
        found.append(Conversation(dialect, query, everything[:length], pauses, ending))
        del everything[:length]
    return found


JSON_MARKS = b'{}[]",:\\0e-+.tfn \x00'


def bred(frame, other, dice):
    """A frame with something of another in it, or less of itself."""
    fields, others = as_object(frame), as_object(other)
    if fields and others and dice.random() < 0.6:
        mixed = {name: dice.choice([fields, others]).get(name) for name in [*fields, *others] if dice.random() < 0.9}
        return replace(frame, data=encoded(json.dumps(mixed)), text=True)
    data, donor = bytearray(frame.data), other.data
    start = dice.randint(0, len(data))
    end = min(len(data), start + dice.randint(0, 20))
    match dice.choice(["cut", "double", "splice", "overwrite"]):
        case "cut":
            del data[start:end]
        case "double":
            data[start:start] = data[start:end]
        case "splice":
            data[start:] = donor[dice.randint(0, len(donor)) :]
        case "overwrite":
            data[start:end] = bytes(dice.choice(JSON_MARKS) for _ in range(end - start))
    return replace(frame, data=encoded(bytes(data).decode("utf-8", "replace")) if frame.text else bytes(data))


def as_object(frame):
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(frame.data)
        return value if isinstance(value, dict) else None
    return None
