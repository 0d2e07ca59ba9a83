"""Prints the quality of sentence segmentation, next to sentencex and pysbd if they are installed.

    python benchmarks/segmentation.py                   # the test sets in tests/data/segmentation
    python benchmarks/segmentation.py --treebanks DIR   # DIR/<language>.conllu, Universal Dependencies
    python benchmarks/segmentation.py --cost            # cost per pushed character, and how often the others revise

For test sets, it counts the texts that are split exactly as expected. For treebanks, each document is joined into
running text, and the F1 of sentence ends inside documents is printed: 100 % means every true end and no other.
"""

import argparse
import importlib
import importlib.util
import json
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from serve_app.config import TextConfig
from serve_app.session.utterance import TextPipeline
from serve_app.text.chunker import Chunker
from serve_app.text.sentences import sentences

TEST_SETS = Path(__file__).parent.parent / "tests" / "data" / "segmentation"
CODES = {
    "chinese": "zh", "english": "en", "french": "fr", "german": "de", "italian": "it", "japanese": "ja",
    "korean": "ko", "portuguese": "pt", "russian": "ru", "spanish": "es",
}  # fmt: skip
PYSBD_LACKS = {"ko", "pt"}

Segmenter = Callable[[str, str], list[str]]


def pysbd_sentences(text: str, language: str) -> list[str]:
    """Segment with pysbd; for Korean and Portuguese, which it lacks, the rules for English are used."""
    code = CODES[language]
    pysbd = importlib.import_module("pysbd")
    return pysbd.Segmenter(language="en" if code in PYSBD_LACKS else code, clean=False).segment(text)


def sentencex_sentences(text: str, language: str) -> list[str]:
    """Segment with sentencex."""
    return importlib.import_module("sentencex").segment(CODES[language], text)


def installed_segmenters() -> dict[str, Segmenter]:
    """Return our segmenters, and those of the other libraries that can be imported."""
    others = {"sentencex": sentencex_sentences, "pysbd": pysbd_sentences}
    ours = {"ours": sentences, "ours, auto": lambda text, _language: sentences(text, "auto")}
    return ours | {name: segmenter for name, segmenter in others.items() if importlib.util.find_spec(name)}


def normalised(pieces: list[str]) -> list[str]:
    """Return the pieces with white space collapsed; omits empty ones."""
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]


def texts_right(test_set: Path, segmenter: Segmenter) -> tuple[int, int]:
    """Return how many texts of a test set are split exactly as expected, and how many there are."""
    language = test_set.stem.rsplit("_", 1)[1]
    cases = json.loads(test_set.read_text("utf-8"))
    right = sum(normalised(segmenter(case["text"], language)) == normalised(case["sentences"]) for case in cases)
    return right, len(cases)


def documents_of(treebank: Path) -> list[list[str]]:
    """Return the sentences of a CoNLL-U file by document; without useful documents, groups of five sentences."""
    documents: list[list[str]] = [[]]
    for line in treebank.read_text("utf-8").splitlines():
        if line.startswith("# newdoc"):
            documents.append([])
        elif line.startswith("# text = "):
            documents[-1].append(line.removeprefix("# text = ").strip())
    longer = [document for document in documents if len(document) > 1]
    if len(longer) > 1:
        return longer
    lone = [sentence for document in documents for sentence in document]
    return [lone[start : start + 5] for start in range(0, len(lone), 5)]


def joiner_of(language: str) -> str:
    """Return the text between two sentences."""
    return "" if language in {"chinese", "japanese"} else " "


def ends_inside(pieces: list[str]) -> set[int]:
    """Return where all pieces but the last end, counted in characters that are not white space."""
    return set(list(accumulate(len("".join(piece.split())) for piece in pieces))[:-1])


def treebank_f1(documents: list[list[str]], language: str, segmenter: Segmenter) -> float:
    """Return the F1 of sentence ends, in percent."""
    joint = joiner_of(language)
    expected = found = both = 0
    for document in documents:
        truth = ends_inside(document)
        ends = ends_inside(normalised(segmenter(joint.join(document), language)))
        expected, found, both = expected + len(truth), found + len(ends), both + len(truth & ends)
    return 200 * both / (expected + found)


def wait_of_chunks(text: str, language: str) -> tuple[int, list[int]]:
    """Push a text one character at a time.

    Returns:
        How many characters had been pushed when the first chunk came, and for each chunk how many beyond its end.
        White space is not counted; chunks from the final flush are omitted.
    """
    chunker = Chunker(language, TextConfig())
    pushed = spoken = 0
    came_after: list[int] = []
    waits: list[int] = []
    for character in text:
        pushed += not character.isspace()
        for chunk in chunker.push(character):
            spoken += len("".join(chunk.split()))
            came_after.append(pushed)
            waits.append(pushed - spoken)
    return (came_after or [pushed])[0], waits


def print_waits(documents: dict[str, list[str]]) -> None:
    """Print the cost of streaming for each language: characters before the first chunk, and beyond each end."""
    print(f"{'language':12}{'texts':>6}{'first chunk after':>20}{'p90':>6}{'beyond its end':>16}{'p90':>6}")
    for language, texts in documents.items():
        measured = [wait_of_chunks(text, language) for text in texts]
        firsts = sorted(first for first, _ in measured)
        waits = sorted(wait for _, each in measured for wait in each) or [0]
        tenths = [each[int(len(each) * part)] for each in (firsts, waits) for part in (0.5, 0.9)]
        print(f"{language:12}{len(texts):6}{tenths[0]:20}{tenths[1]:6}{tenths[2]:16}{tenths[3]:6}")


def takes_back(text: str, language: str, segmenter: Segmenter) -> bool:
    """Return whether an end found in a prefix of the text is not an end in the whole text, which may be too late."""
    whole = ends_inside(normalised(segmenter(text, language)))
    beginnings = (text[:length] for length in range(1, len(text)))
    return any(ends_inside(normalised(segmenter(beginning, language))) - whole for beginning in beginnings)


def print_taken_back() -> None:
    """Print for the other libraries in how many test texts an end is revised as the text grows."""
    cases = [
        (case["text"][:400], test_set.stem.rsplit("_", 1)[1])
        for test_set in sorted(TEST_SETS.glob("*.json"))
        for case in json.loads(test_set.read_text("utf-8"))
    ]
    for name, segmenter in installed_segmenters().items():
        if not name.startswith("ours"):
            taken_back = sum(takes_back(text, language, segmenter) for text, language in cases)
            print(f"{name}: an end is revised in {taken_back} of {len(cases)} texts")


def print_cost() -> None:
    """Print the time for text pushed one character at a time, and of each segmenter for a whole text."""
    cases = [json.loads(path.read_text("utf-8")) for path in sorted(TEST_SETS.glob("*english.json"))]
    text = " ".join(case["text"] for each in cases for case in each) * 4
    for length in (5_000, 20_000):
        chunker = Chunker("english", TextConfig())
        begun_s = time.perf_counter()
        for character in text[:length]:
            chunker.push(character)
        chunker.flush()
        print(f"{length} characters pushed one by one: {time.perf_counter() - begun_s:.3f} s")
    for step in (1, 4, length):
        cleaned = TextPipeline().open("english")
        begun_s = time.perf_counter()
        for at in range(0, length, step):
            cleaned.push(text[at : at + step])
        cleaned.flush()
        print(f"{length} characters cleaned and split, {step} at a time: {time.perf_counter() - begun_s:.3f} s")
    for name, segmenter in installed_segmenters().items():
        segmenter("Warm up.", "english")
        begun_s = time.perf_counter()
        segmenter(text[:20_000], "english")
        print(f"20000 characters at once, {name}: {time.perf_counter() - begun_s:.3f} s")


def print_test_sets() -> None:
    """Print one line per test set."""
    segmenters = installed_segmenters()
    print(f"{'test set':24}" + "".join(f"{name:>14}" for name in segmenters))
    for test_set in sorted(TEST_SETS.glob("*.json")):
        scores = [texts_right(test_set, segmenter) for segmenter in segmenters.values()]
        print(f"{test_set.stem:24}" + "".join(f"{f'{right} / {count}':>14}" for right, count in scores))


def print_treebanks(folder: Path) -> None:
    """Print one line per language whose treebank is in ``folder``."""
    segmenters = installed_segmenters()
    print(f"{'treebank':12}{'ends':>6}" + "".join(f"{name:>14}" for name in segmenters))
    running_texts: dict[str, list[str]] = {}
    for language in CODES:
        treebank = folder / f"{language}.conllu"
        documents = documents_of(treebank) if treebank.exists() else []
        if documents:
            scores = [treebank_f1(documents, language, segmenter) for segmenter in segmenters.values()]
            count = sum(len(document) - 1 for document in documents)
            print(f"{language:12}{count:6}" + "".join(f"{score:13.1f}%" for score in scores))
            running_texts[language] = [joiner_of(language).join(document) for document in documents]
    print_waits(running_texts)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description="Scores of sentence segmentation")
    parser.add_argument("--treebanks", type=Path, help="a folder of <language>.conllu files")
    parser.add_argument(
        "--cost", action="store_true", help="print what a character costs, and how often the others revise"
    )
    arguments = parser.parse_args()
    if arguments.treebanks:
        print_treebanks(arguments.treebanks)
    elif arguments.cost:
        print_cost()
        print_taken_back()
    else:
        print_test_sets()


if __name__ == "__main__":
    main()
