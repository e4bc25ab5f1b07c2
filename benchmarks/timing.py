"""Timing in pairs: candidates run in turn, so that a drift of the machine's speed hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fusedlm import _core


@dataclass(frozen=True)
class Times:
    """Seconds of one candidate over all rounds."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(candidates: dict[str, Callable[[], object]], budget: float = 2.0) -> dict[str, Times]:
    """Times every candidate in turn until `budget` seconds are spent, five rounds at least."""
    for run in candidates.values():  # the first call compiles, allocates and warms caches
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(next(iter(seconds.values()))) < 5:
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def roof(bfloat16: bool, seconds: float = 0.3) -> float:
    """Floating-point operations per second that never leave the registers, measured now."""
    return _core.roof_measure(bfloat16, seconds)


def bandwidth(seconds: float = 0.3) -> float:
    """Bytes per second, read and written, of copies far larger than the caches."""
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    best = alternate({"copy": lambda: target.copy_(source)}, seconds)["copy"].best
    return 2.0 * source.nbytes / best
