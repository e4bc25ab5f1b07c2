"""Sets and maps of 64-bit hashes in little memory: 8 and 16 bytes an entry, where Python's take 70 up."""

from __future__ import annotations

import numpy as np


class HashMap:
    """Hashes and the number that each came with first; only ever added to.

    The newest entries are in a dictionary. When that is full it becomes a sorted array, and arrays of
    about one length are merged (a log-structured merge tree in memory), so there are few to search.
    """

    RECENT = 1 << 16

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._sorted: list[tuple[np.ndarray, np.ndarray]] = []  # (hashes, numbers), longest first

    def find(self, hashes: np.ndarray) -> list[int]:
        """The numbers of those hashes [n] uint64 that are known, in the order of their arrays."""
        found: list[int] = []
        for keys, numbers in self._sorted:
            at = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
            found += numbers[at[keys[at] == hashes]].tolist()
        recent = self._recent
        found += (recent[h] for h in hashes.tolist() if h in recent)
        return found

    def add(self, hashes: np.ndarray, number: int) -> None:
        for value in hashes.tolist():
            self._recent.setdefault(value, number)
        if len(self._recent) >= self.RECENT:
            self._settle()

    def _settle(self) -> None:
        keys = np.fromiter(self._recent.keys(), np.uint64, len(self._recent))
        numbers = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}
        order = np.argsort(keys, kind="stable")
        self._sorted.append((keys[order], numbers[order]))
        while len(self._sorted) > 1 and len(self._sorted[-2][0]) < 2 * len(self._sorted[-1][0]):
            (a, of_a), (b, of_b) = self._sorted[-2:]
            keys = np.concatenate([a, b])
            order = np.argsort(keys, kind="stable")  # the older of two equal ones stays in front
            self._sorted[-2:] = [(keys[order], np.concatenate([of_a, of_b])[order])]
