"""Word and character error rates of transcripts. This module is pure."""

import re
from collections.abc import Sequence


def plain(text: str) -> str:
    """Lower case; only letters, digits and apostrophes; single spaces."""
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", text.lower().replace("’", "'")).split())


def distance(said: Sequence[object], heard: Sequence[object]) -> int:
    """Edit distance: the fewest insertions, deletions and replacements that turn one into the other."""
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(said, 1):
        above, row[0] = row[0], i
        for j, found in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (wanted != found))
    return row[-1]


def error_rates(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Word and character error rates of (said, heard) texts: total errors relative to the total length said."""
    words = [(plain(said).split(), plain(heard).split()) for said, heard in pairs]
    spelled = [("".join(said), "".join(heard)) for said, heard in words]
    return _rate(words), _rate(spelled)


def _rate(pairs: Sequence[tuple[Sequence[object], Sequence[object]]]) -> float:
    return sum(distance(said, heard) for said, heard in pairs) / max(1, sum(len(said) for said, _ in pairs))
