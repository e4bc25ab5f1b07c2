"""Sequences of a batch one behind the other, without padding, and what stands for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Tokens [N] of all sequences, their positions and types [N], and where each begins, [n + 1] int32."""

    tokens: Tensor
    positions: Tensor
    starts: Tensor
    types: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], first_position: int = 0) -> Packed:
        """Sequences of tokens, none empty; each counts its positions from `first_position`."""
        lengths = torch.tensor([0, *map(len, rows)])
        starts = lengths.cumsum(0)
        tokens = torch.tensor([token for row in rows for token in row])
        begins = starts[:-1].repeat_interleave(lengths[1:])
        positions = torch.arange(len(tokens)) - begins + first_position
        return cls(tokens, positions, starts.to(torch.int32))

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    @property
    def rows(self) -> Tensor:
        """Which sequence each token is of, [N] int64."""
        lengths = self.lengths.long()
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def without_middles(self, longest: int) -> Packed:
        """Every sequence with at most `longest` tokens: its first and last ones, moved together."""
        lengths = self.lengths.long()
        if int(lengths.max()) <= longest:
            return self
        rows = self.rows
        from_start = torch.arange(len(rows), device=rows.device) - self.starts[:-1].long()[rows]
        from_end = lengths[rows] - 1 - from_start
        kept = (from_start < (longest + 1) // 2) | (from_end < longest // 2)
        kept |= lengths[rows] <= longest
        starts = torch.nn.functional.pad(lengths.clamp(max=longest).cumsum(0), (1, 0))
        moved = torch.arange(int(starts[-1]), device=rows.device) - starts[:-1][rows[kept]]
        types = None if self.types is None else self.types[kept]
        positions = moved + self.positions[0]
        return Packed(self.tokens[kept], positions, starts.to(torch.int32), types)


def mean_of(hidden: Tensor, packed: Packed) -> Tensor:
    """The mean over each sequence, [n, C] float32, of hidden [N, C]."""
    sums = hidden.new_zeros(len(packed.starts) - 1, hidden.shape[1], dtype=torch.float32)
    return sums.index_add(0, packed.rows, hidden.float()) / packed.lengths[:, None]


def first_of(hidden: Tensor, packed: Packed) -> Tensor:
    return hidden[packed.starts[:-1].long()]


def last_of(hidden: Tensor, packed: Packed) -> Tensor:
    return hidden[packed.starts[1:].long() - 1]
