"""How sure a measured number is: intervals of shares, and bootstrap errors of anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Where a share lies of which `hits` of `count` were seen (Wilson 1927); good for few and for
    shares near 0 and 1, where hits / count ± 2 errors is not. (0, 1) where nothing was counted."""
    if not 0 <= hits <= count:
        raise ValueError(f"wilson_interval: hits is {hits}, expected 0 to count = {count}")
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    statistic: Callable[[np.ndarray], float | np.ndarray],
    count: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """`statistic` of `resamples` draws of `count` row numbers with replacement (Efron 1979)."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return np.array([statistic(draw.integers(0, count, count)) for _ in range(resamples)])


def bootstrap_error(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> float:
    """The standard error of the mean of `values`; 0 where there are none or one."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return 0.0
    means = bootstrap(lambda rows: array[rows].mean(), len(array), resamples=resamples, seed=seed)
    return float(means.std(ddof=1))
