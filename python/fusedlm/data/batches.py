"""Batches of windows of packed tokens, in an order that a seed fixes and a number resumes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .drawn import Drawn
from .packed import PackedData


class Batches(Drawn):
    """Endless training batches: (tokens, targets) [B, T] int64, targets one token ahead.

    An epoch cuts the data into disjoint windows, from an offset drawn for the epoch, and visits
    them in an order drawn for the epoch. Windows left over from an epoch start the next batch. The
    state is one number, the windows drawn so far.
    """

    fixed = ("seed", "batch", "context")

    def __init__(self, data: PackedData, batch: int, context: int, seed: int = 0) -> None:
        _must_hold_something("Batches", batch, context)
        if len(data) < context + 1:
            raise ValueError(
                f"Batches: the data has {len(data)} tokens, expected at least context + 1 ="
                f" {context + 1}; give more text or a smaller context"
            )
        self.data, self.batch, self.context, self.seed = data, batch, context, seed
        # One window fewer than fits, where possible, leaves room for the offset.
        whole = (len(data) - 1) // context
        self.windows = max(1, whole - 1)
        self._room = len(data) - 1 - self.windows * context
        self._epoch = -1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield self.next()

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: tokens and the tokens that follow them, both [batch, context] int64."""
        rows = np.stack([self._window(self.drawn + i) for i in range(self.batch)])
        self.drawn += self.batch
        both = torch.from_numpy(rows)
        return both[:, :-1], both[:, 1:]

    def skip(self) -> None:
        """Passes over a batch, which another rank takes."""
        self.drawn += self.batch

    def _window(self, number: int) -> np.ndarray:
        epoch, index = divmod(number, self.windows)
        if epoch != self._epoch:
            draw = self.lots(epoch)
            self._offset = int(draw.integers(0, self._room + 1))
            self._order = draw.permutation(self.windows)
            self._epoch = epoch
        start = self._offset + int(self._order[index]) * self.context
        return self.data.ids[start : start + self.context + 1].astype(np.int64)


def validation_batches(
    data: PackedData, batch: int, context: int, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All windows of the data once, in order, the last ones in a smaller batch; at most `limit`
    batches, spread evenly. Data shorter than context + 1 gives one shorter window.
    """
    _must_hold_something("validation_batches", batch, context)
    if len(data) < 2:
        raise ValueError(
            f"validation_batches: the data has {len(data)} tokens, expected at least 2"
        )
    context = min(context, len(data) - 1)
    starts = list(range(0, len(data) - context, context))
    groups = [starts[i : i + batch] for i in range(0, len(starts), batch)]
    if limit is not None and limit < len(groups):
        groups = [groups[i * len(groups) // limit] for i in range(limit)]
    for group in groups:
        rows = np.stack([data.ids[s : s + context + 1].astype(np.int64) for s in group])
        both = torch.from_numpy(rows)
        yield both[:, :-1], both[:, 1:]


def _must_hold_something(who: str, batch: int, context: int) -> None:
    if batch < 1 or context < 1:
        raise ValueError(f"{who}: batch is {batch}, context {context}, expected at least 1")
