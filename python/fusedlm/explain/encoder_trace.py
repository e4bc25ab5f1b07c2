"""An encoder in plain torch, with what classifies on top."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm.models import Encoder
from fusedlm.models.ngrams import NGrams
from fusedlm.models.packed import Packed

from . import plain
from .plain import Weights
from .record import Layer, Trace


def encoder(
    model: Encoder, ids: Tensor, types: Tensor | None, token_rows: Tensor | None,
    ngrams: Tensor | None, weights: Weights, logits: bool,
) -> Trace:  # fmt: skip
    """`trace` of tokens and types [B, T]."""
    config = model.config
    rows = F.embedding(ids, weights["token_weight"]) if token_rows is None else token_rows
    packed, _ = model.pack(ids)  # which says where RoBERTa's positions begin
    positions = packed.positions.view(ids.shape)
    parts = {"token": rows, "position": weights["position_weight"][positions]}
    if config.types:
        parts["type"] = weights["type_weight"][torch.zeros_like(ids) if types is None else types]
    embeddings = plain.sum_of(parts)
    x = first = _norm(model, embeddings, weights, "embedding_norm.")
    layers = []
    for number in range(config.layers):
        layers.append(_layer(model, number, x, weights))
        x = layers[-1].output
    if model.ngrams is not None and ngrams is None:
        ngrams = ngram_shares(model.ngrams, packed, weights).sum(1)

    def says(stream: Tensor, row: int | None) -> Tensor:
        if config.task == "sequence":
            found = plain.linear(_pool(model, stream, weights), weights, "classifier.")
            return found if ngrams is None else found + ngrams
        found = plain.linear(stream, weights, "classifier.")
        found = found.mT if config.task == "span" else found
        return found if row is None else found[:, row]

    pooled = _pool(model, x, weights) if config.task in (None, "sequence") else None
    found = says(x, None) if config.task and logits else None
    return Trace(parts, embeddings, first, layers, x, pooled, found, says if config.task else None)


def _norm(model: Encoder, x: Tensor, weights: Weights, name: str) -> Tensor:
    eps = model.config.norm_eps
    return plain.layer_norm(x, weights[name + "weight"], weights[name + "bias"], eps)


def _layer(model: Encoder, number: int, x: Tensor, weights: Weights) -> Layer:
    config, at, T = model.config, f"blocks.{number}.", x.shape[1]
    qkv = plain.linear(x, weights, at + "qkv.")
    query, key, value = plain.split_heads(qkv, config.heads, config.heads)
    seen = plain.seen_by(T, causal=False, device=x.device)
    attention = plain.attend((query, key, value), (query, key), seen, weights, at + "out.")
    middle = x + attention.out
    ffn_in = _norm(model, middle, weights, at + "attention_norm.")
    ffn = plain.feed_forward(ffn_in, weights, at + "ffn.", config.activation)
    output = _norm(model, ffn_in + ffn.out, weights, at + "ffn_norm.")
    return Layer(x, x, attention, middle, ffn_in, ffn, output)


def ngram_shares(ngrams: NGrams, packed: Packed, weights: Weights) -> Tensor:
    """What each token of B texts of T tokens has of the logits that the n-grams add, [B, T, K]: each
    n-gram's is shared out evenly among its tokens."""
    longest, B = ngrams.longest, len(packed.starts) - 1
    buckets = ngrams.buckets(packed).view(B, -1, longest)
    T = buckets.shape[1]
    said = weights["ngrams.weight"][buckets]  # [B, T, longest, K], of those that end in each token
    place = torch.arange(T, device=buckets.device)
    shares: Tensor = torch.zeros_like(said[:, :, 0])
    for more in range(longest):  # tokens before the last; those before the text's begin are nothing
        own = said[:, :, more] / (place.clamp(max=more) + 1)[:, None]
        for back in range(min(more + 1, T)):
            shares = shares + F.pad(own[:, back:], (0, 0, 0, back))
    factor: float = ngrams.scale / math.sqrt(T * longest)
    return shares * factor


def _pool(model: Encoder, x: Tensor, weights: Weights) -> Tensor:
    """One vector a text: what the classifier of sequences looks at, or what `embed` gives."""
    config = model.config
    if config.task == "sequence":
        if config.head == "mean":
            return x.mean(1)
        dense = plain.linear(x[:, 0], weights, "pooler.")
        return torch.relu(dense) if config.style == "distilbert" else torch.tanh(dense)
    vectors = x[:, 0] if config.pooling == "cls" else x.mean(1)
    if config.normalize:
        vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return vectors
