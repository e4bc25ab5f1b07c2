"""Attention weights of every layer and head."""

from __future__ import annotations

import torch
from torch import Tensor

from .tracing import Model, Tokens, trace


@torch.no_grad()
def attention_maps(model: Model, tokens: Tokens, *, types: Tokens | None = None) -> Tensor:
    """How much each token looks at each other, [L, H, T, T] float32; of tokens [B, T], [B, L, H, T, T].

    Row t of a map is what token t looks at, and sums to 1. Fused attention never holds these
    numbers: they are computed here by plain torch.
    """
    found = trace(model, tokens, types=types, logits=False)
    maps = torch.stack([layer.attention.weights for layer in found.layers], dim=1)
    return maps if torch.as_tensor(tokens).dim() == 2 else maps[0]
