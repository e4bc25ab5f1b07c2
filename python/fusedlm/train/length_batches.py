"""Batches of whole sequences of like length, in an order that a seed fixes and a number resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusedlm.data.drawn import Drawn
from fusedlm.models.packed import Packed

# Sequences are sorted by length within so many batches: enough for batches of like length, few enough
# to leave chance its part in which sequences meet.
_SORTED = 32
IGNORED = -100  # the target of a token that counts for nothing


@dataclass(frozen=True)
class Sequences:
    """Rows of tokens, none empty, and the target of each: a class, or one for each token (-100: none).

    Of spans the targets are pairs. `types` are token types, None where there are none.
    """

    rows: Sequence[Sequence[int]]
    targets: Sequence[int] | Sequence[Sequence[int]]
    types: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.targets) or not self.rows:
            raise ValueError(
                f"Sequences: {len(self.rows)} rows and {len(self.targets)} targets, expected as many"
                " of both, and some"
            )

    def fingerprint(self) -> str:
        """A hash of rows, targets and types, to know the data again."""
        digest = hashlib.sha256()
        for row, target in zip(self.rows, self.targets, strict=True):
            digest.update(np.asarray([len(row), *row], dtype=np.int64).data)
            digest.update(np.asarray(target, dtype=np.int64).data)
        for row in self.types or ():
            digest.update(np.asarray(row, dtype=np.int64).data)
        return digest.hexdigest()[:32]


def flat(targets: Sequence[int | Sequence[int]]) -> list[int]:
    """Classes as they are; the targets of rows one behind the other."""
    found: list[int] = []
    for each in targets:
        if isinstance(each, Sequence):
            found.extend(each)
        else:
            found.append(int(each))
    return found


class LengthBatches(Drawn):
    """Endless batches of `batch` sequences, packed: (Packed, targets [n] or all of them flat, int64).

    An epoch visits every sequence once. `drawn` counts batches.
    """

    fixed = ("seed", "batch")

    def __init__(
        self, data: Sequences, batch: int, seed: int = 0, *, first_position: int = 0
    ) -> None:
        if batch < 1:
            raise ValueError(f"LengthBatches: batch is {batch}, expected at least 1")
        self.data, self.batch, self.seed = data, batch, seed
        self._first_position = first_position
        self._lengths = np.asarray([len(row) for row in data.rows])
        self.per_epoch = -(-len(data.rows) // batch)
        self._epoch = -1

    def next(self) -> tuple[Packed, Tensor]:
        epoch, index = divmod(self.drawn, self.per_epoch)
        if epoch != self._epoch:
            self._order, self._epoch = self._batches(epoch), epoch
        self.drawn += 1
        chosen = self._order[index]
        targets = flat([self.data.targets[i] for i in chosen])
        rows = [self.data.rows[i] for i in chosen]
        types = None if self.data.types is None else [self.data.types[i] for i in chosen]
        return Packed.of(rows, self._first_position, types), torch.tensor(targets)

    def skip(self) -> None:
        """Passes over a batch, which another rank takes."""
        self.drawn += 1

    def _batches(self, epoch: int) -> list[np.ndarray]:
        draw = self.lots(epoch)
        order = draw.permutation(len(self._lengths))
        many = _SORTED * self.batch
        pools = [order[i : i + many] for i in range(0, len(order), many)]
        sorted_pools = [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools]
        order = np.concatenate(sorted_pools)
        batches = [order[i : i + self.batch] for i in range(0, len(order), self.batch)]
        return [batches[i] for i in draw.permutation(len(batches))]
