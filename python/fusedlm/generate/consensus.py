"""The candidate that is most like all others: minimum Bayes risk (Kumar & Byrne 2004; Eikema & Aziz 2022,
arXiv:2108.04718).

The most probable text is often a strange one, a short one say. What is chosen here has the largest
expected chrF (Popović 2015), were each candidate the right text with its probability.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_ORDER, _RECALL = (
    6,
    2.0,
)  # longest n-grams of characters, how much more recall counts than precision


def weights_of(log_probabilities: Sequence[float], sharpness: float) -> list[float]:
    """Shares of 1, in proportion to the probabilities to the power of `sharpness`."""
    top = max(log_probabilities)
    powers = [math.exp(sharpness * (one - top)) for one in log_probabilities]
    return [power / sum(powers) for power in powers]


def most_agreed(texts: Sequence[str], weights: Sequence[float]) -> int:
    """The number of the text with the largest expected chrF; the first of equal ones.

    weights: how probable it is that each text is the right one.
    """
    if len(texts) != len(weights) or not texts:
        raise ValueError(
            f"most_agreed: {len(weights)} weights for {len(texts)} texts, expected as many, and some"
        )
    if len(set(texts)) == 1:
        return 0
    expected = [
        sum(weight * chrf(text, other) for other, weight in zip(texts, weights, strict=True))
        for text in texts
    ]
    return expected.index(max(expected))


def chrf(text: str, reference: str) -> float:
    """The chrF of one text, from 0 to 1: n-grams of up to 6 characters, spaces left out."""
    precision = recall = 0.0
    orders = 0
    for given, wanted in zip(_grams(text), _grams(reference), strict=True):
        sizes = given.total(), wanted.total()
        if not any(sizes):
            continue
        orders += 1
        common = (given & wanted).total()
        precision += common / max(1, sizes[0])
        recall += common / max(1, sizes[1])
    if not orders:
        return 1.0
    factor = _RECALL**2
    total = factor * precision + recall
    return (1 + factor) * precision * recall / total / orders if total else 0.0


@lru_cache(maxsize=4096)
def _grams(text: str) -> tuple[Counter[str], ...]:
    text = "".join(text.split())
    return tuple(
        Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, _ORDER + 1)
    )
