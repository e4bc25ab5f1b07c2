"""Documents that are there already, word for word or nearly.

Nearly: MinHash signatures (Broder 1997), found by bands of them (LSH; Leskovec, Rajaraman & Ullman,
Mining of Massive Datasets, ch. 3) and compared before a document goes. The first of its kind stays, so
the result follows from the order of the documents alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from .hashes import HashMap
from .words import plain_words

PERMUTATIONS = 128
SHINGLE = 3  # words in a row
_BLOCK = 512  # shingles hashed at once: 128 x 512 x 8 bytes stay in the L2 cache


@dataclass(frozen=True)
class Duplicate:
    """What a document repeats: where that is, and how alike both are (1 for the same text)."""

    file: str
    line: int
    similarity: float


def exact_signature(text: str) -> np.ndarray:
    """A hash of the text, the same whatever the blanks and the case of letters: [1] uint64."""
    digest = hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()
    return np.frombuffer(digest, np.uint64)


class ExactDuplicates:
    """Texts that are equal but for blanks and the case of letters. 28 bytes a document."""

    def __init__(self) -> None:
        self._known = HashMap()
        self._places = Places()

    def check(self, signature: np.ndarray, file: str, line: int) -> Duplicate | None:
        """`signature` is the `exact_signature` of the document at this place."""
        found = self._known.find(signature)
        if found:
            return Duplicate(*self._places.at(found[0]), 1.0)
        self._known.add(signature, self._places.add(file, line))
        return None


class Places:
    """Files and lines of the documents kept: 12 bytes each."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._names: list[str] = []
        self._places = np.zeros((1024, 3), np.uint32)  # the file, and the line in two halves
        self.count = 0

    def add(self, file: str, line: int) -> int:
        number = self._files.setdefault(file, len(self._files))
        if number == len(self._names):
            self._names.append(file)
        if self.count == len(self._places):
            self._places = np.concatenate([self._places, np.zeros_like(self._places)])
        self._places[self.count] = number, line & 0xFFFFFFFF, line >> 32
        self.count += 1
        return self.count - 1

    def at(self, number: int) -> tuple[str, int]:
        file, low, high = self._places[number].tolist()
        return self._names[file], low | high << 32


_generator = np.random.default_rng(20260101)
_FACTORS = _generator.integers(0, 2**63, (PERMUTATIONS, 1), np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _generator.integers(0, 2**63, (PERMUTATIONS, 1), np.uint64)


def near_signature(text: str) -> np.ndarray:
    """MinHash of a text: [PERMUTATIONS] uint32, the least hash of its shingles for each permutation.

    Two signatures agree at a share of their places that estimates the Jaccard similarity of the sets
    of shingles, within 0.09 (two standard deviations at worst).
    """
    found = plain_words(text) or text.split()  # a text of signs alone
    words = np.fromiter((crc32(word.encode()) for word in found), np.uint64, len(found))
    if len(words) < SHINGLE:  # a short text is one shingle
        words = np.concatenate([words, np.zeros(SHINGLE - len(words), np.uint64)])
    count = len(words) - SHINGLE + 1
    shingles = np.zeros(count, np.uint64)
    for place in range(SHINGLE):
        shingles = _mix(shingles + words[place : place + count])
    shingles = np.unique(shingles)
    least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingles), _BLOCK):
        hashed = shingles[start : start + _BLOCK] * _FACTORS + _OFFSETS
        np.minimum(least, hashed.min(axis=1), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finish of splitmix64: every bit of x bears on every bit of the result."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def rows_of_a_band(similarity: float) -> int:
    """The most rows with which a pair that is just so similar shares a band with 99 %."""
    for rows in range(16, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - similarity**rows) ** bands >= 0.99:
            return rows
    return 1


class NearDuplicates:
    """Texts of which at least `similarity` of the shingles are those of one before (Jaccard).

    512 bytes a document for its signature and 16 for each band, 340 at a similarity of 0.8.
    """

    def __init__(self, similarity: float) -> None:
        if not 0.3 <= similarity <= 1:
            raise ValueError(f"similarity is {similarity}, expected 0.3 to 1")
        self.similarity = similarity
        self._rows = rows_of_a_band(similarity)
        self._bands = PERMUTATIONS // self._rows
        self._known = HashMap()
        self._places = Places()
        self._signatures = np.zeros((1024, PERMUTATIONS), np.uint32)

    def check(self, signature: np.ndarray, file: str, line: int) -> Duplicate | None:
        """`signature` is the `near_signature` of the document at this place."""
        keys = self._band_hashes(signature)
        candidates = sorted(set(self._known.find(keys)))
        if candidates:
            alike = (self._signatures[candidates] == signature).mean(axis=1)
            best = int(alike.argmax())
            if alike[best] >= self.similarity:
                return Duplicate(*self._places.at(candidates[best]), round(float(alike[best]), 3))
        number = self._places.add(file, line)
        if number == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._signatures[number] = signature
        self._known.add(keys, number)
        return None

    def _band_hashes(self, signature: np.ndarray) -> np.ndarray:
        used = (
            signature[: self._bands * self._rows].reshape(self._bands, self._rows).astype(np.uint64)
        )
        keys = np.arange(self._bands, dtype=np.uint64)
        for row in range(self._rows):
            keys = _mix(keys + used[:, row])
        return keys
