"""Attention weights of every layer and head."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedlm.models.encoder_decoder import Source

from .record import Trace
from .tracing import Model, Tokens, trace

OF = ("self", "cross", "source")


@torch.no_grad()
def attention_maps(
    model: Model, tokens: Tokens, *, types: Tokens | None = None, source: Source | None = None,
    of: str = "self",
) -> Tensor:  # fmt: skip
    """How much each token looks at each other, [L, H, T, T] float32; of tokens [B, T], [B, L, H, T, T].

    Row t of a map is what token t looks at, and sums to 1. Fused attention never holds these
    numbers: they are computed here by plain torch.

    An encoder-decoder, which needs a `source` as in `trace`, has those of the target's tokens at each
    other ("self"), at the source's ("cross", [L, H, T, S]), and of the source's ("source", [L, H, S, S]).
    """
    if of not in OF:
        raise ValueError(f"attention_maps: of is {of!r}, expected one of {', '.join(OF)}")
    found: Trace | None = trace(model, tokens, types=types, source=source, logits=False)
    if of == "source" and found is not None:
        found = found.source
    pairs = [] if found is None else [(layer.attention, layer.cross) for layer in found.layers]
    chosen = [cross if of == "cross" else attention for attention, cross in pairs]
    weights = [attention.weights for attention in chosen if attention is not None]
    if not weights:
        raise ValueError(f"attention_maps: of is {of!r}, and the model reads no source")
    maps = torch.stack(weights, dim=1)
    return maps if torch.as_tensor(tokens).dim() == 2 else maps[0]
