"""A translation memory: the translation of the most similar sentence that was translated before.

It is what a translator's tool shows, and what a model has to beat to be worth its training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .parallel import source_key

_LENGTHS = (2, 3, 4, 5)  # of the n-grams of characters
_CANDIDATES = 32  # looked at more closely


@dataclass(frozen=True)
class Match:
    """`score` is 1 for a sentence that is known, 0 for one that has nothing in common with any."""

    score: float
    source: str
    target: str


class TranslationMemory:
    """Finds the nearest of `pairs` by its source, without case.

    The _CANDIDATES best (or as many as are asked for) by the cosine of tf-idf vectors of character
    n-grams are compared by the sum of three similarities, each from 0 to 1: that cosine, and
    `similarity` by characters and by words.
    On held-out program messages the sum found better translations than each of the three alone.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        if not pairs:
            raise ValueError("TranslationMemory: pairs is empty, expected at least one")
        self.pairs = list(pairs)
        self._ids: dict[str, int] = {}  # of n-grams
        grams: list[int] = []
        documents: list[int] = []
        counts: list[int] = []
        for number, (source, _) in enumerate(self.pairs):
            for text, count in _grams(source).items():
                grams.append(self._ids.setdefault(text, len(self._ids)))
                documents.append(number)
                counts.append(count)
        gram, document = np.array(grams), np.array(documents)
        frequency = np.bincount(gram)
        self._idf = np.log((1 + len(self.pairs)) / (1 + frequency)) + 1
        weight = (1 + np.log(counts)) * self._idf[gram]
        weight /= np.sqrt(np.bincount(document, weight * weight))[document]
        # The documents of an n-gram, and its weights in them, are a stretch of these.
        order = np.argsort(gram, kind="stable")
        self._documents, self._document_weights = document[order], weight[order]
        self._starts = np.concatenate([[0], frequency.cumsum()])

    def look_up(self, source: str, count: int = 1, *, others: bool = False) -> list[Match]:
        """The `count` nearest pairs, best first (fewer, where fewer have anything in common with it).

        `others` leaves out those of the same source but for case and signs: what a pair that is in the
        memory itself is to be found without.
        """
        scores = self._cosines(source)
        most = max(count, _CANDIDATES)
        least = np.partition(scores, -most)[-most] if len(scores) > most else 0
        best = np.flatnonzero((scores >= least) & (scores > 0))
        best = best[np.argsort(-scores[best], kind="stable")][:most]
        text, same = source.casefold(), source_key(source)
        found = []
        for number in best.tolist():
            known = self.pairs[number][0].casefold()
            if others and source_key(known) == same:
                continue
            total = (
                scores[number] + similarity(text, known) + similarity(text.split(), known.split())
            )
            found.append(Match(float(total) / 3, *self.pairs[number]))
        return sorted(found, key=lambda match: -match.score)[:count]

    def _cosines(self, source: str) -> np.ndarray:
        """Of the vectors of `source` and of every pair's source."""
        known = [(self._ids[g], n) for g, n in _grams(source).items() if g in self._ids]
        if not known:
            return np.zeros(len(self.pairs))
        ids, counts = np.array(known).T
        weights = (1 + np.log(counts)) * self._idf[ids]
        weights /= np.sqrt((weights * weights).sum())
        stretches = [slice(self._starts[i], self._starts[i + 1]) for i in ids]
        documents = np.concatenate([self._documents[at] for at in stretches])
        parts = [w * self._document_weights[at] for w, at in zip(weights, stretches, strict=True)]
        return np.bincount(documents, np.concatenate(parts), minlength=len(self.pairs))


def _grams(text: str) -> Counter[str]:
    padded = f" {text.casefold()} "
    return Counter(padded[i : i + n] for n in _LENGTHS for i in range(len(padded) - n + 1))


def similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """2 L / (len a + len b), L the longest common subsequence (bit-parallel: Hyyrö 2004)."""
    if not a or not b:
        return float(a == b)
    at: dict[str, int] = defaultdict(int)
    for i, character in enumerate(a):
        at[character] |= 1 << i
    full = (1 << len(a)) - 1
    free = full  # a 0 where the subsequence grows by one
    for character in b:
        both = free & at[character] if character in at else 0
        free = ((free + both) | (free - both)) & full
    return 2 * (len(a) - free.bit_count()) / (len(a) + len(b))
