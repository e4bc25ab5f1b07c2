"""Causal self-attention with grouped key-value heads, rotary positions and a KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusedlm import ops

from .basic import Linear
from .rope import Rope

if TYPE_CHECKING:
    from fusedlm.generate.cache import LayerCache


class SelfAttention(nn.Module):
    """x [B, T, C] -> [B, T, C]: one product for query, key and value, then attention, then out.

    `heads` H query heads share `kv_heads` G key-value heads of width D (Ainslie et al. 2023).
    """

    def __init__(
        self, width: int, heads: int, *, kv_heads: int | None = None,
        head_width: int | None = None, bias: bool = True, dropout: float = 0.0,
        out_std: float = 0.02,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads or heads
        self.head_width = head_width or width // heads
        self.dropout = dropout
        self.qkv = Linear(width, (heads + 2 * self.kv_heads) * self.head_width, bias=bias)
        self.out = Linear(heads * self.head_width, width, bias=bias, std=out_std)

    def forward(
        self, x: Tensor, rope: Rope | None = None, positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:  # fmt: skip
        B, T, _ = x.shape
        H, G = self.heads, self.kv_heads
        qkv = self.qkv(x).view(B, T, H + 2 * G, self.head_width)
        if rope is not None:  # query and key turn by the same angles, so both in one pass
            qkv = rope(qkv, positions, heads=H + G)
        dropped = self.dropout if self.training else 0.0
        seed = int(torch.randint(2**31, ())) if dropped else None
        if cache is None:
            mixed = ops.attention_qkv(qkv, H, causal=True, dropout_p=dropped, seed=seed)
        else:
            query, key, value = qkv.split((H, G, G), dim=2)
            key, value, kv_lengths = cache.extend(key, value)
            mixed = ops.attention(
                query, key, value, causal=True, kv_lengths=kv_lengths, dropout_p=dropped, seed=seed
            )
        return self.out(mixed.flatten(2))
