"""Tensors as short lists: of 6 digits, of the first numbers, of some of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def six(value: float | Tensor) -> float:
    """A number of 6 digits."""
    return float(f"{float(value):.6g}")


def rounded(values: Tensor) -> list[Any]:
    """As nested lists of numbers of 6 digits."""
    flat: list[Any] = [six(value) for value in values.flatten().tolist()]
    for size in reversed(values.shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)]
    return flat


def vectors(x: Tensor, numbers: int) -> list[Any]:
    """[..., C] -> nested lists of [length, first numbers ...]."""
    return rounded(torch.cat([x.norm(dim=-1, keepdim=True), x[..., :numbers]], -1))


def pick(count: int, most: int, wanted: Sequence[int] = ()) -> list[int | None]:
    """At most `most` of so many things, None where some are left out: first, wanted and last ones."""
    chosen = {0, *(i for i in wanted if 0 <= i < count)}
    return _with_gaps(chosen, range(count - 1, -1, -1), count, most)


def pick_near(count: int, most: int, at: int) -> list[int | None]:
    """Of so many tokens the first, and those near the one at `at`: before it twice as far as after."""
    near = sorted(range(count), key=lambda i: at - i if i <= at else 2 * (i - at))
    return _with_gaps({0, at}, near, count, most)


def _with_gaps(chosen: set[int], others: Iterable[int], count: int, most: int) -> list[int | None]:
    if count <= most:
        return list(range(count))
    for i in others:
        if len(chosen) >= most:
            break
        chosen.add(i)
    result: list[int | None] = []
    next_one = 0
    for i in sorted(chosen):
        if i > next_one:
            result.append(None)
        result.append(i)
        next_one = i + 1
    if next_one != count:
        result.append(None)
    return result
