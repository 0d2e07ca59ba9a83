"""Texts to speak: words drawn by frequency, with some names and numbers.

The word order has no meaning, so that a model must read each word.
"""

import random
import re
from bisect import bisect
from functools import lru_cache
from itertools import accumulate

from wordfreq import top_n_list

WORDS = 40_000
DICTIONARY, ENGLISH = 0.8, 1.05
"""Strength of word frequencies: 1 is about that of English, 0 a dictionary read at random."""

# fmt: off
_NAMES = (
    "Alice", "Amir", "Anna", "Boston", "Carlos", "Chen", "Daniel", "Diego", "Elena", "Emma", "Fatima", "Geneva",
    "George", "Grace", "Hannah", "Hassan", "Helsinki", "Ingrid", "Ivan", "James", "Jonas", "Julia", "Kenji", "Kyoto",
    "Laura", "Lisbon", "London", "Lucas", "Madrid", "Maria", "Martin", "Maya", "Mexico", "Milan", "Naomi", "Nina",
    "Oliver", "Olga", "Oslo", "Paris", "Peter", "Priya", "Rome", "Ruth", "Samuel", "Sofia", "Thomas", "Tokyo",
    "Vienna", "Walter", "Yusuf", "Zurich",
)
# fmt: on


def sentence(rng: random.Random, steepness: float = ENGLISH) -> str:
    """Return a random sentence of 2 to 16 words."""
    chosen = [_word(rng, steepness) for _ in range(rng.randint(2, 16))]
    text = chosen[0]
    for word in chosen[1:]:
        text += rng.choices([" ", ", ", "; ", ": "], [0.89, 0.09, 0.01, 0.01])[0] + word
    return text[0].upper() + text[1:] + rng.choices(".?!", [0.8, 0.12, 0.08])[0]


def _word(rng: random.Random, steepness: float) -> str:
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(_NAMES)
    if kind < 0.035:
        return str(rng.choice([rng.randint(0, 20), rng.randint(0, 100), rng.randint(100, 2100)]))
    words, weights = _vocabulary(steepness)
    return words[bisect(weights, rng.random() * weights[-1])]


@lru_cache(maxsize=2)
def _vocabulary(steepness: float) -> tuple[list[str], list[float]]:
    """Words, and the cumulative sums of their weights."""
    words = [word for word in top_n_list("en", WORDS) if re.fullmatch(r"[a-z']{2,14}|a|i", word)]
    return words, list(accumulate(1 / (rank + 3) ** steepness for rank in range(len(words))))
