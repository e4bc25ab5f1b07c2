"""What a corpus looks like in numbers: lengths, words, vocabulary, languages. Memory is bounded."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any
from zlib import crc32

from .characters import main_script
from .words import plain_words

_WORDS = 200_000  # words counted at once, about 30 MB; rare ones make room
_LEAST = 4096  # hashes that the number of distinct words is estimated from: within 3 %
_POINT = 1.25  # the next point of the growth curve is after so many times the words


class Statistics:
    """Takes documents one by one; `as_json` says what they were."""

    def __init__(self) -> None:
        self.documents = 0
        self._words = Lengths()
        self._characters = Lengths()
        self._vocabulary = Vocabulary()
        self._scripts: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._growth: list[tuple[int, int]] = []
        self._next_point = 1000.0

    def add(self, text: str, words: list[str] | None = None, language: str | None = None) -> None:
        """`words` where the text is segmented already; language where it was found out."""
        words = plain_words(text) if words is None else words
        self.documents += 1
        self._words.add(len(words))
        self._characters.add(len(text))
        self._vocabulary.add(words)
        self._scripts[main_script(text)] += 1
        if language is not None:
            self._languages[language] += 1
        if self._words.total >= self._next_point:
            self._growth.append((self._words.total, self._vocabulary.distinct()))
            self._next_point = self._words.total * _POINT

    def as_json(self) -> dict[str, Any]:
        """All counts by name, as the report has them."""
        growth = list(self._growth)
        last = (self._words.total, self._vocabulary.distinct())
        if last not in growth:
            growth.append(last)
        values = {
            "documents": self.documents,
            "words": self._words.as_json(),
            "characters": self._characters.as_json(),
            "distinct_words": last[1],
            "distinct_words_are": "estimated" if self._vocabulary.pruned else "counted",
            "most_frequent_words": dict(self._vocabulary.most_frequent(30)),
            "vocabulary_growth": growth,
            "zipf": self._vocabulary.zipf(),
            "scripts": _by_count(self._scripts),
        }
        return values | ({"languages": _by_count(self._languages)} if self._languages else {})


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class Lengths:
    """A distribution of lengths; of those above 1,000 three digits are kept."""

    def __init__(self) -> None:
        self.total = 0
        self._shortest: int | None = None
        self._longest = 0
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        self.total += length
        self._longest = max(self._longest, length)
        self._shortest = length if self._shortest is None else min(self._shortest, length)
        unit = 10 ** max(len(str(length)) - 3, 0)
        self._counts[length // unit * unit] += 1

    def as_json(self) -> dict[str, Any]:
        count = self._counts.total()
        values = {"total": self.total, "mean": round(self.total / count, 2) if count else 0}
        values |= {"shortest": self._shortest or 0, "longest": self._longest}
        return {
            **values, "median": self._quantile(0.5), "percentile_95": self._quantile(0.95),
            "histogram": self._histogram(),
        }  # fmt: skip

    def _quantile(self, share: float) -> int:
        wanted, seen = share * self._counts.total(), 0
        for length in sorted(self._counts):
            seen += self._counts[length]
            if seen >= wanted:
                return length
        return 0

    def _histogram(self) -> list[tuple[int, int]]:
        """(lower end, count) of bins that grow by a quarter of a power of two."""
        bins: Counter[int] = Counter()
        for length, count in self._counts.items():
            top = 1 << max(length.bit_length() - 1, 0)
            bins[top + (length - top) * 4 // top * top // 4 if length else 0] += count
        return sorted(bins.items())


class Vocabulary:
    """Counts of words, and how many there are. When too many are held, the rare ones are let go:
    frequent words keep their count (lossy counting, Manku & Motwani 2002, without its bound on errors),
    and the number of distinct ones is estimated from the least of their hashes (Bar-Yossef et al. 2002).
    """

    def __init__(self, limit: int = _WORDS) -> None:
        self._limit = limit
        self._counts: Counter[str] = Counter()
        self.pruned = False
        self._least: list[int] = []  # negated, so that the greatest of the least is on top
        self._members: set[int] = set()

    def add(self, words: list[str]) -> None:
        if self.pruned:
            for word in set(words).difference(self._counts):
                self._hash(word)
        self._counts.update(words)
        if len(self._counts) > self._limit:
            self._prune()

    def distinct(self) -> int:
        if not self.pruned or len(self._least) < _LEAST:
            return len(self._counts) if not self.pruned else len(self._least)
        return round((_LEAST - 1) * 2**64 / -self._least[0])

    def most_frequent(self, count: int) -> list[tuple[str, int]]:
        return heapq.nsmallest(count, self._counts.items(), key=lambda item: (-item[1], item[0]))

    def zipf(self) -> list[tuple[int, int]]:
        """(rank, count) at ranks that grow by a quarter."""
        counts = sorted(self._counts.values(), reverse=True)
        points, rank = [], 1
        while rank <= len(counts):
            points.append((rank, counts[rank - 1]))
            rank = max(rank + 1, rank * 5 // 4)
        return points

    def _prune(self) -> None:
        if not self.pruned:
            self.pruned = True
            for word in self._counts:
                self._hash(word)
        least = 1
        while len(self._counts) > self._limit // 2:
            self._counts = Counter({w: n for w, n in self._counts.items() if n > least})
            least *= 2

    def _hash(self, word: str) -> None:
        data = word.encode()
        value = _scramble(crc32(data) << 32 | crc32(data[::-1], 0x5BD1E995))
        if value in self._members:
            return
        if len(self._least) < _LEAST:
            heapq.heappush(self._least, -value)
        elif value < -self._least[0]:
            self._members.discard(-heapq.heappushpop(self._least, -value))
        else:
            return
        self._members.add(value)


def _scramble(x: int) -> int:
    """The finish of murmur3: close inputs give far results."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * factor & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 33
