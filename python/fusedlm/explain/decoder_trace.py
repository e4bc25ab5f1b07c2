"""A decoder in plain torch, and one that classifies."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fusedlm.models import Decoder, DecoderClassifier, EncoderDecoderConfig, ModelConfig

from . import plain
from .plain import Weights
from .record import Layer, Trace


def decoder(
    model: Decoder, ids: Tensor, token_rows: Tensor | None, weights: Weights, logits: bool
) -> Trace:
    """`trace` of tokens [B, T], with the parameters' names as they are in `model`."""
    config, T = model.config, ids.shape[1]
    rows = F.embedding(ids, weights["embedding.weight"]) if token_rows is None else token_rows
    parts = {"token": rows}
    if config.position == "learned":
        parts["position"] = weights["embedding.position_weight"][:T].expand_as(rows)
    x = first = plain.sum_of(parts)
    layers = []
    for number in range(config.layers):
        layers.append(_layer(model, number, x, weights))
        x = layers[-1].output
    final = norm(config, x, weights, "final_norm.")

    def says(stream: Tensor, row: int | None) -> Tensor:
        stream = stream if row is None else stream[:, row]  # of the whole vocabulary
        table = weights["embedding.weight" if model.head is None else "head.weight"]
        return norm(config, stream, weights, "final_norm.") @ table.T

    return Trace(parts, first, first, layers, final, None, says(x, None) if logits else None, says)


def classifier(
    model: DecoderClassifier, ids: Tensor, token_rows: Tensor | None, weights: Weights, logits: bool
) -> Trace:
    """The same of a decoder under a classifier."""
    config = model.config
    inside = plain.below(weights, "decoder.")
    found = decoder(model.decoder, ids, token_rows, inside, False)

    def pooled(final: Tensor) -> Tensor | None:
        if config.task == "token":
            return None
        return final.mean(1) if config.pooling == "mean" else final[:, -1]

    def says(stream: Tensor, row: int | None) -> Tensor:
        final = norm(config.decoder, stream, inside, "final_norm.")
        vector = pooled(final)
        if vector is None:
            vector = final if row is None else final[:, row]
        return plain.linear(vector, weights, "classifier.")

    return Trace(
        found.parts, found.embeddings, found.first, found.layers, found.final, pooled(found.final),
        says(found.layers[-1].output, None) if logits else None, says,
    )  # fmt: skip


def norm(
    config: ModelConfig | EncoderDecoderConfig, x: Tensor, weights: Weights, name: str
) -> Tensor:
    if config.norm == "rms_norm":
        return plain.rms_norm(x, weights[name + "weight"], config.norm_eps)
    return plain.layer_norm(
        x, weights[name + "weight"], weights.get(name + "bias"), config.norm_eps
    )


def _layer(model: Decoder, number: int, x: Tensor, weights: Weights) -> Layer:
    config, at, T = model.config, f"blocks.{number}.", x.shape[1]
    attention_in = norm(config, x, weights, at + "attention_norm.")
    qkv = plain.linear(attention_in, weights, at + "attention.qkv.")
    query, key, value = plain.split_heads(qkv, config.heads, config.kv_heads)
    query_used, key_used = query, key
    if config.qk_norm:
        names = (at + "attention.query_norm.weight", at + "attention.key_norm.weight")
        query_used, key_used = (
            plain.rms_norm(part, weights[name], config.norm_eps)
            for part, name in zip((query, key), names, strict=True)
        )
    if model.rope is not None:
        cos, sin = (table[:T].to(x.dtype) for table in model.rope.tables(T))
        query_used, key_used = (
            plain.rotate(part, cos, sin, config.rope_interleaved) for part in (query_used, key_used)
        )
    window = config.windows[number] if config.windows else 0
    seen = plain.seen_by(T, causal=True, window=window, device=x.device)
    used = (query_used, key_used)
    attention = plain.attend((query, key, value), used, seen, weights, at + "attention.out.")
    middle = x + attention.out
    ffn_in = norm(config, middle, weights, at + "ffn_norm.")
    ffn = plain.feed_forward(ffn_in, weights, at + "ffn.", config.activation)
    return Layer(x, attention_in, attention, middle, ffn_in, ffn, middle + ffn.out)
