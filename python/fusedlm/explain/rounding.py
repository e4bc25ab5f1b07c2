"""Tensors as short lists: of 6 digits, of the first numbers, of some of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def six(value: float | Tensor) -> float:
    """A number of 6 digits."""
    return float(f"{float(value):.6g}")


def rounded(values: Tensor) -> list:
    """As nested lists of numbers of 6 digits."""
    flat = [six(value) for value in values.flatten().tolist()]
    for size in reversed(values.shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)]
    return flat


def vectors(x: Tensor, numbers: int) -> list:
    """[..., C] -> nested lists of [length, first numbers ...]."""
    return rounded(torch.cat([x.norm(dim=-1, keepdim=True), x[..., :numbers]], -1))


def pick(count: int, most: int, wanted: Sequence[int] = ()) -> list[int | None]:
    """At most `most` of so many things, None where some are left out: first, wanted and last ones."""
    if count <= most:
        return list(range(count))
    chosen = {0, *(i for i in wanted if 0 <= i < count)}
    for i in range(count - 1, -1, -1):
        if len(chosen) >= most:
            break
        chosen.add(i)
    result: list[int | None] = []
    for i in sorted(chosen):
        if result and result[-1] is not None and i > result[-1] + 1:
            result.append(None)
        result.append(i)
    return result
