"""Self-attention with grouped key-value heads and rotary positions, causal unless told otherwise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusedlm import ops
from fusedlm.ops.attention import PackedAttentionOptions

from .basic import Linear, RMSNorm
from .rope import Rope


class SelfAttention(nn.Module):
    """x [B, T, C] -> [B, T, C]: one product for query, key and value, then attention, then out.

    `heads` H query heads share `kv_heads` G key-value heads of width D (Ainslie et al. 2023).
    `qk_norm` is the eps of an RMSNorm on every query and key head, before they turn; None: none
    (Dehghani et al. 2023; as in Qwen3). `window` W hides tokens that are W or more back; None: none.
    """

    def __init__(
        self, width: int, heads: int, *, kv_heads: int | None = None,
        head_width: int | None = None, bias: bool = True, qkv_bias: bool | None = None,
        qk_norm: float | None = None, window: int | None = None, dropout: float = 0.0,
        out_std: float = 0.02, causal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads or heads
        self.head_width = head_width or width // heads
        self.window = window
        self.dropout = dropout
        self.causal = causal
        qkv_width = (heads + 2 * self.kv_heads) * self.head_width
        self.qkv = Linear(width, qkv_width, bias=bias if qkv_bias is None else qkv_bias)
        self.query_norm = None if qk_norm is None else RMSNorm(self.head_width, qk_norm)
        self.key_norm = None if qk_norm is None else RMSNorm(self.head_width, qk_norm)
        self.out = Linear(heads * self.head_width, width, bias=bias, std=out_std)

    def forward(
        self, x: Tensor, rope: Rope | None = None, positions: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """starts [n + 1] int32: n sequences packed along T with B = 1, none sees another."""
        H, G = self.heads, self.kv_heads
        dropped = self.dropout if self.training else 0.0
        seed = int(torch.randint(2**31, (), device="cpu")) if dropped else None
        options: PackedAttentionOptions = {
            "causal": self.causal, "window": self.window, "dropout_p": dropped, "seed": seed,
        }  # fmt: skip
        qkv = self.turned(x, rope, positions)
        if self.query_norm is None or self.key_norm is None:
            mixed = ops.attention_qkv(qkv, H, cu_seqlens=starts, **options)
        else:
            query, key, value = qkv.split((H, G, G), dim=2)
            query, key = self.query_norm(query), self.key_norm(key)
            if rope is not None:
                query, key = rope(query, positions), rope(key, positions)
            mixed = ops.attention(query, key, value, cu_seqlens_q=starts, **options)
        out: Tensor = self.out(mixed.flatten(2))
        return out

    def turned(self, x: Tensor, rope: Rope | None, positions: Tensor | None) -> Tensor:
        """Query, key and value of x in one tensor [B, T, H + 2 G, D]; turned, unless norms come first."""
        H, G = self.heads, self.kv_heads
        qkv: Tensor = self.qkv(x).view(*x.shape[:2], H + 2 * G, self.head_width)
        if self.query_norm is None and rope is not None:
            qkv = rope(qkv, positions, heads=H + G)  # both turn by the same angles: one pass
        return qkv
