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
    def of(
        cls, rows: Sequence[Sequence[int]], first_position: int = 0,
        types: Sequence[Sequence[int]] | None = None,
    ) -> Packed:  # fmt: skip
        """Sequences of tokens, none empty; each counts its positions from `first_position`."""
        lengths = torch.tensor([0, *map(len, rows)])
        starts = lengths.cumsum(0)
        tokens = torch.tensor([token for row in rows for token in row])
        begins = starts[:-1].repeat_interleave(lengths[1:])
        positions = torch.arange(len(tokens)) - begins + first_position
        flat = None if types is None else torch.tensor([t for row in types for t in row])
        return cls(tokens, positions, starts.to(torch.int32), flat)

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


def span_loss(logits: Tensor, packed: Packed, targets: Tensor) -> Tensor:
    """The mean of the cross-entropies of first and last token, each over its whole sequence.

    logits [N, 2], targets [n, 2] int64 from the beginning of each sequence. (Devlin et al. 2019,
    arXiv:1810.04805, section 4.2.)
    """
    lengths, rows = packed.lengths.long(), packed.rows
    targets = targets.reshape(-1, 2)
    if len(targets) != len(lengths) or bool(((targets < 0) | (targets >= lengths[:, None])).any()):
        raise ValueError(
            f"span_loss: targets [{len(targets)}, 2] are not all within the {len(lengths)} sequences"
        )
    starts = packed.starts[:-1].long()
    columns = torch.arange(len(rows), device=rows.device) - starts[rows]
    padded = logits.new_full(
        (len(lengths), int(lengths.max()), 2), float("-inf"), dtype=torch.float32
    )
    padded = padded.index_put((rows, columns), logits.float())
    return torch.nn.functional.cross_entropy(
        padded.transpose(1, 2).flatten(0, 1), targets.flatten()
    )
