"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fusedlm import ops


class Rope(nn.Module):
    """Rotates x [B, T, H, D], or its first `heads` heads; the tables stay float32 and are not saved."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, length: int, dim: int, base: float = 10000.0, *, scaling: Mapping[str, Any] | None = None,
        interleaved: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        cos, sin = ops.rope_tables(length, dim, base, scaling=scaling)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.interleaved = interleaved

    def forward(
        self, x: Tensor, positions: Tensor | None = None, heads: int | None = None
    ) -> Tensor:
        """x [B, T, H, D] -> the same, turned by `positions` [T] or [B, T] int64 (by default 0 to T - 1)."""
        return ops.rope(
            x, self.cos, self.sin, positions=positions, heads=heads, interleaved=self.interleaved
        )
