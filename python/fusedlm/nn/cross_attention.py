"""Attention of one sequence to another: queries of the target, keys and values of the source."""

from __future__ import annotations

from torch import Tensor, nn

from fusedlm import ops

from .basic import Linear


class CrossAttention(nn.Module):
    """x [1, N, C] of packed targets, memory [1, M, C] of packed sources -> [1, N, C].

    Target i, tokens starts[i] to starts[i + 1] of x, sees source i alone, all of it.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True, out_std: float = 0.02) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query = Linear(width, width, bias=bias)
        self.key_value = Linear(width, 2 * width, bias=bias)
        self.out = Linear(width, width, bias=bias, std=out_std)

    def forward(self, x: Tensor, memory: Tensor, starts: Tensor, memory_starts: Tensor) -> Tensor:
        """x [1, N, C] looks at memory [1, M, C], sequence by sequence -> [1, N, C].

        starts and memory_starts [n + 1] int32: sequence i is starts[i] to starts[i + 1] of x, and so of memory.
        """
        key, value = self.keys_and_values(memory)
        mixed = ops.attention(
            self.queries(x), key, value, cu_seqlens_q=starts, cu_seqlens_k=memory_starts
        )
        out: Tensor = self.out(mixed.flatten(2))
        return out

    def queries(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, H, D]"""
        queries: Tensor = self.query(x).unflatten(-1, (self.heads, self.head_width))
        return queries

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, C] -> two of [B, S, H, D], views of one product."""
        both = self.key_value(memory).unflatten(-1, (2 * self.heads, self.head_width))
        key, value = both.split(self.heads, dim=2)
        return key, value
