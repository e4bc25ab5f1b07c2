"""The decoder once more, in plain torch: what `fusedlm.models.Decoder` has to compute.

It shares the parameter names with the decoder and nothing else: no fused pairs, no fused QKV
handling, no ops of ours. It works in float64, and for both the GPT-2 and the Llama style.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm.models import ModelConfig


class Twin:
    """`Twin(model.config, model.state_dict(), dtype)`: logits and loss by torch.nn.functional."""

    def __init__(
        self, config: ModelConfig, weights: dict[str, Tensor], dtype: torch.dtype = torch.float64
    ) -> None:
        self.config = config
        self.weights = {
            name: value.detach().to(dtype).clone().requires_grad_(value.is_floating_point())
            for name, value in weights.items()
        }

    def logits(self, tokens: Tensor) -> Tensor:
        config, w = self.config, self.weights
        x = F.embedding(tokens, w["embedding.weight"])
        if config.position == "learned":
            x = x + w["embedding.position_weight"][: tokens.shape[1]]
        for layer in range(config.layers):
            at = f"blocks.{layer}."
            x = x + self._attention(at + "attention.", self._norm(at + "attention_norm", x))
            x = x + self._ffn(at + "ffn.", self._norm(at + "ffn_norm", x))
        x = self._norm("final_norm", x)
        return x @ w["embedding.weight" if config.tied else "head.weight"].T

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(tokens).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=self.config.ignore_index)

    def gradients(self, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.loss(tokens, targets)
        return dict(
            zip(self.weights, torch.autograd.grad(loss, list(self.weights.values())), strict=True)
        )

    def _norm(self, name: str, x: Tensor) -> Tensor:
        if self.config.norm == "rms_norm":
            return self._rms(name, x)
        weight, eps = self.weights[name + ".weight"], self.config.norm_eps
        return F.layer_norm(x, x.shape[-1:], weight, self.weights.get(name + ".bias"), eps)

    def _rms(self, name: str, x: Tensor) -> Tensor:
        scale = torch.sqrt((x * x).mean(-1, keepdim=True) + self.config.norm_eps)
        return x / scale * self.weights[name + ".weight"]

    def _linear(self, x: Tensor, name: str, separator: str = ".") -> Tensor:
        weight = self.weights[f"{name}{separator}weight"]
        return F.linear(x, weight, self.weights.get(f"{name}{separator}bias"))

    def _attention(self, at: str, x: Tensor) -> Tensor:
        config = self.config
        H, G, D = config.heads, config.kv_heads, config.head_width
        parts = self._linear(x, at + "qkv").split([H * D, G * D, G * D], dim=-1)
        query, key, value = (p.unflatten(-1, (-1, D)).transpose(1, 2) for p in parts)
        if config.qk_norm:
            query, key = self._rms(at + "query_norm", query), self._rms(at + "key_norm", key)
        if config.position == "rope":
            query, key = self._rotate(query), self._rotate(key)
        key, value = (t.repeat_interleave(H // G, dim=1) for t in (key, value))
        T = query.shape[2]
        distance = torch.arange(T)[:, None] - torch.arange(T)
        window = (config.windows[int(at.split(".")[1])] if config.windows else 0) or T
        seen = (distance >= 0) & (distance < window)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self._linear(out.transpose(1, 2).flatten(2), at + "out")

    def _rotate(self, x: Tensor) -> Tensor:
        """Each pair of entries as a complex number, turned by position * base^(-2i/D)."""
        D = x.shape[-1]
        pairs = (
            x.unflatten(-1, (D // 2, 2)) if self.config.rope_interleaved
            else x.unflatten(-1, (2, D // 2)).transpose(-1, -2)
        )  # fmt: skip
        rate = torch.exp(-math.log(self.config.rope_base) * torch.arange(0, D, 2).double() / D)
        wide = (
            x.dtype if x.dtype == torch.float64 else torch.float32
        )  # bfloat16 has no complex type
        angle = torch.outer(torch.arange(x.shape[-2]).double(), rate).to(wide)
        turned = torch.view_as_complex(pairs.contiguous().to(wide)) * torch.polar(
            torch.ones_like(angle), angle
        )
        pairs = torch.view_as_real(turned).to(x.dtype)
        return pairs.flatten(-2) if self.config.rope_interleaved else pairs.transpose(
            -1, -2
        ).flatten(-2)  # fmt: skip

    def _ffn(self, at: str, x: Tensor) -> Tensor:
        activation = {
            "gelu": F.gelu,
            "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
            "relu": F.relu,
            "swiglu": F.silu,
            "geglu": F.gelu,
            "geglu_tanh": lambda h: F.gelu(h, approximate="tanh"),
        }[self.config.activation]
        up = self._linear(x, at + "up", "_")
        hidden = (
            activation(self._linear(x, at + "gate", "_")) * up
            if self.config.gated
            else activation(up)
        )
        return self._linear(hidden, at + "down", "_")
