"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusedlm import ops

FIRST = 4096  # positions that the tables begin with; most inputs have fewer


class Rope(nn.Module):
    """Rotates x [B, T, H, D], or its first `heads` heads; the tables stay float32 and are not saved.

    They hold the positions that were asked for, not all `length`: a model may name a context of millions.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, length: int, dim: int, base: float = 10000.0, *, scaling: Mapping[str, Any] | None = None,
        interleaved: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.length, self.dim, self.base = length, dim, base
        self.scaling = None if scaling is None else dict(scaling)
        self.interleaved = interleaved
        cos, sin = self._made(min(length, FIRST))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self, x: Tensor, positions: Tensor | None = None, heads: int | None = None
    ) -> Tensor:
        """x [B, T, H, D] -> the same, turned by `positions` [T] or [B, T] int64 (by default 0 to T - 1)."""
        cos, sin = self.tables(x.shape[1], positions)
        return ops.rope(x, cos, sin, positions=positions, heads=heads, interleaved=self.interleaved)

    def tables(self, T: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines [P, dim / 2] with a row for each of `positions`, or of 0 to T - 1."""
        if len(self.cos) < self.length:
            if torch.compiler.is_exporting():  # an exported program keeps its buffers' shapes
                return self._made(self.length)
            needed = self._reach(T, positions)
            if needed > len(self.cos):
                rows = min(self.length, max(needed, 2 * len(self.cos)))
                self.cos, self.sin = (table.to(self.cos.device) for table in self._made(rows))
        return self.cos, self.sin

    def _reach(self, T: int, positions: Tensor | None) -> int:
        """How many rows are needed; all of them where looking would split a graph or wait for a device."""
        if torch.compiler.is_compiling():
            return self.length
        if positions is None:
            return T
        if positions.is_cpu and positions.numel():
            return int(positions.max()) + 1
        return self.length

    def _made(self, rows: int) -> tuple[Tensor, Tensor]:
        return ops.rope_tables(rows, self.dim, self.base, scaling=self.scaling)
