"""Memory and time of each step of a long piece of work, and what they say about it."""

from __future__ import annotations

import os
import time
from array import array
from dataclasses import dataclass

import numpy as np

from tools.memory import resident

MB = 1e6
# The allocator keeps what is freed, in pieces: a run of a few seconds may end so much above its start.
NOISE = 8 * MB
_BLOCKS = 200  # a median of each takes the peaks of the longest shapes out of the line


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@dataclass(frozen=True)
class Limits:
    """What still counts as flat and as fast as before."""

    growth: float = 1.0  # MB per 1,000 steps
    slow_down: float = 1.25  # of the median, last quarter to first


@dataclass(frozen=True)
class Verdict:
    """What `Meter` found. growth: MB per 1,000 steps; slow_down: 1 is as fast as at first."""

    name: str
    steps: int
    seconds: float
    first_mb: float
    last_mb: float
    growth: float
    slow_down: float
    files: int  # more of them open than at first
    faults: tuple[str, ...]

    def __str__(self) -> str:
        found = "; ".join(self.faults) if self.faults else "flat, and no slower"
        return (
            f"{self.name}: {self.steps:,} in {self.seconds:,.0f} s, memory {self.first_mb:.1f} to"
            f" {self.last_mb:.1f} MB, {self.growth:+.3f} MB per 1,000, time of one x {self.slow_down:.3f}:"
            f" {found}"
        )


class Meter:
    """Notes every piece of work of `name`, in arrays: lists of Python numbers would grow themselves.

    Time is the processor's, of all threads: on a machine that others use, a clock on the wall would
    measure them. A piece has a kind, so that like is compared with like, and counts `steps` steps.
    """

    def __init__(self, name: str, limits: Limits, steps: int = 1) -> None:
        self.name, self._limits, self._each = name, limits, steps
        self._kinds, self._times, self._memory = array("l"), array("d"), array("d")
        self._kind: int | None = None
        self._files = array("l")
        self._wall = time.monotonic()
        self._busy = 0.0

    def begin(self, kind: int) -> None:
        """A piece begins, and the one before has ended."""
        self.end()
        self._kind, self._busy = kind, time.process_time()

    def end(self) -> None:
        if self._kind is None:
            return
        self._times.append(time.process_time() - self._busy)
        self._memory.append(resident())
        self._files.append(open_files())
        self._kinds.append(self._kind)
        self._kind = None

    @property
    def steps(self) -> int:
        return len(self._times) * self._each

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._wall

    def verdict(self) -> Verdict:
        """Of all pieces so far; the first quarter is left out of the growth: caches fill up there."""
        if len(self._times) < 16:
            raise ValueError(f"{self.name}: {len(self._times)} pieces, expected at least 16")
        memory = np.array(self._memory)
        settled = memory[len(memory) // 4 :]
        growth = slope(settled) / self._each * 1000 / MB
        slower = slow_down(np.array(self._kinds), np.array(self._times))
        files = self._files[-1] - self._files[len(self._files) // 4]
        faults = []
        total = slope(settled) * len(settled)
        if growth > self._limits.growth and total > NOISE:
            faults.append(f"memory grows, at most {self._limits.growth:g} MB per 1,000 expected")
        if slower > self._limits.slow_down:
            faults.append(f"it becomes slower, at most x {self._limits.slow_down:g} expected")
        if files > 0:
            faults.append(f"{files} files were left open")
        return Verdict(
            self.name, self.steps, self.seconds, settled[0] / MB, memory[-1] / MB, growth, slower,
            files, tuple(faults),
        )  # fmt: skip


def slope(memory: np.ndarray) -> float:
    """Growth a piece: the line through medians of blocks with the least squares."""
    blocks = np.array_split(memory, min(_BLOCKS, len(memory)))
    middle = np.cumsum([len(b) for b in blocks]) - [len(b) / 2 for b in blocks]
    return float(np.polyfit(middle, [np.median(b) for b in blocks], 1)[0])


def slow_down(kinds: np.ndarray, times: np.ndarray) -> float:
    """The median over kinds of how much longer one takes in the last quarter than in the first."""
    quarter = len(times) // 4
    first, last = slice(quarter), slice(len(times) - quarter, None)
    ratios = [
        np.median(times[last][kinds[last] == kind]) / np.median(times[first][kinds[first] == kind])
        for kind in np.intersect1d(kinds[first], kinds[last])
    ]
    return float(np.median(ratios))
