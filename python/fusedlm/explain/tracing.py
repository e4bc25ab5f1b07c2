"""A whole model once more, in plain torch, with everything on the way recorded.

    found = trace(model, [5, 3, 8])
    found.layers[0].attention.weights        # [1, heads, 3, 3]

It takes the parameters as they are (adapters added), float32 or float64, and embeddings in place of
tokens. Nothing is dropped out. Tests hold it to the fused model: logits, loss and every gradient.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm.models import Decoder, Encoder, EncoderConfig
from fusedlm.models.checks import check_tokens
from fusedlm.models.lora import merged_state
from fusedlm.models.ngrams import NGrams
from fusedlm.models.packed import Packed

from . import plain
from .plain import Attention, FeedForward, Weights

Model: TypeAlias = Decoder | Encoder
_FEW = 10_000_000  # parameters; more of them in float64 would take too much memory


@dataclass(frozen=True)
class Layer:
    """One layer. All but `attention` and `ffn` are [B, T, C].

    A decoder norms what goes into attention and feed-forward (`attention_in`, `ffn_in`): `middle` is
    input + attention.out, `output` is middle + ffn.out. An encoder norms the sums: `attention_in` is the
    input itself, `ffn_in` norm(middle), and `output` norm(ffn_in + ffn.out).
    """

    input: Tensor
    attention_in: Tensor
    attention: Attention
    middle: Tensor
    ffn_in: Tensor
    ffn: FeedForward
    output: Tensor


@dataclass(frozen=True)
class Trace:
    """What a model computes of tokens [B, T].

    `parts` are the looked-up rows by name, "token" and, where the model has them, "position" and "type";
    `embeddings` [B, T, C] is their sum, and `first` what the first layer gets (of an encoder: normed).
    `final` [B, T, C] is a decoder's last norm, an encoder's last layer. `pooled` [B, C] is an encoder's
    vector of the text, or with a classifier of sequences what that looks at. `logits` [B, T, V], or
    [B, K] and [B, T, K] of classifiers; None of an encoder without one, and where not wanted.
    """

    parts: dict[str, Tensor]
    embeddings: Tensor
    first: Tensor
    layers: list[Layer]
    final: Tensor
    pooled: Tensor | None
    logits: Tensor | None

    @property
    def known_logits(self) -> Tensor:
        """The logits of a trace that was asked for them."""
        assert self.logits is not None
        return self.logits


def trace(
    model: Model, tokens: Sequence[int] | Tensor, *, token_rows: Tensor | None = None,
    ngrams: Tensor | None = None, dtype: torch.dtype = torch.float32,
    weights: Weights | None = None, logits: bool = True,
) -> Trace:  # fmt: skip
    """Computes `model` on tokens [T] or [B, T] in plain torch and records what comes up.

    token_rows [B, T, C] stand in for the rows of the token embedding, to differentiate by them or to
    put others there; `ngrams` [B, K] for what the n-grams of an encoder add to its logits. `weights` (by
    the names of the model's parameters) stand in for the model's own, which are read without gradients.
    Raises ValueError naming the argument that does not fit.
    """
    ids = as_tokens(model, tokens)
    if weights is None:
        weights = weights_of(model, dtype)
    shape = [*ids.shape, model.config.width]
    if token_rows is not None and list(token_rows.shape) != shape:
        raise ValueError(f"trace: token_rows has shape {list(token_rows.shape)}, expected {shape}")
    if isinstance(model, Decoder):
        return _decoder(model, ids, token_rows, weights, logits)
    return _encoder(model, ids, token_rows, ngrams, weights, logits)


def as_tokens(model: Model, tokens: Sequence[int] | Tensor) -> Tensor:
    """Tokens as [B, T] int64, checked."""
    if not isinstance(model, (Decoder, Encoder)):
        raise ValueError(
            f"explain: model is a {type(model).__name__}, expected a Decoder or Encoder"
        )
    ids = torch.as_tensor(tokens)
    if ids.numel() == 0:
        raise ValueError("explain: tokens is empty, expected at least one")
    ids = ids[None] if ids.dim() == 1 else ids
    config = model.config
    check_tokens(type(model).__name__, ids, config.context)
    if isinstance(config, EncoderConfig) and config.ngram_tokens is not None:
        if ids.shape[1] > config.max_tokens:  # the n-grams read more, but no layer does
            raise ValueError(
                f"explain: tokens has {ids.shape[1]} positions, of which the layers read"
                f" max_tokens={config.max_tokens}; expected at most as many"
            )
    if not 0 <= int(ids.min()) <= int(ids.max()) < model.config.vocab_size:
        raise ValueError(
            f"explain: tokens holds {int(ids.min())} to {int(ids.max())}, expected"
            f" 0 to {model.config.vocab_size - 1}"
        )
    return ids


def weights_of(model: Model, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The parameters by name, without gradients; those of adapters are added to what they adapt."""
    return {name: value.detach().to(dtype) for name, value in merged_state(model).items()}


def dtype_for(model: Model) -> torch.dtype:
    """float64 where the weights are few: then 6 digits are the same for any number of threads."""
    few = sum(parameter.numel() for parameter in model.parameters()) <= _FEW
    return torch.float64 if few else torch.float32


def _decoder(
    model: Decoder, ids: Tensor, token_rows: Tensor | None, weights: Weights, logits: bool
) -> Trace:
    config, T = model.config, ids.shape[1]
    rows = F.embedding(ids, weights["embedding.weight"]) if token_rows is None else token_rows
    parts = {"token": rows}
    if config.position == "learned":
        parts["position"] = weights["embedding.position_weight"][:T].expand_as(rows)
    x = first = _sum(parts)
    layers = []
    for number in range(config.layers):
        layers.append(_decoder_layer(model, number, x, weights))
        x = layers[-1].output
    final = decoder_norm(model, x, weights, "final_norm.")
    table = weights["embedding.weight" if model.head is None else "head.weight"]
    found = final @ table.T if logits else None
    return Trace(parts, first, first, layers, final, None, found)


def _sum(parts: dict[str, Tensor]) -> Tensor:
    return functools.reduce(operator.add, parts.values())


def decoder_norm(model: Decoder, x: Tensor, weights: Weights, name: str) -> Tensor:
    eps = model.config.norm_eps
    if model.config.norm == "rms_norm":
        return plain.rms_norm(x, weights[name + "weight"], eps)
    return plain.layer_norm(x, weights[name + "weight"], weights.get(name + "bias"), eps)


def _decoder_layer(model: Decoder, number: int, x: Tensor, weights: Weights) -> Layer:
    config, at, T = model.config, f"blocks.{number}.", x.shape[1]
    attention_in = decoder_norm(model, x, weights, at + "attention_norm.")
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
    ffn_in = decoder_norm(model, middle, weights, at + "ffn_norm.")
    ffn = plain.feed_forward(ffn_in, weights, at + "ffn.", config.activation)
    return Layer(x, attention_in, attention, middle, ffn_in, ffn, middle + ffn.out)


def _encoder(
    model: Encoder, ids: Tensor, token_rows: Tensor | None, ngrams: Tensor | None, weights: Weights,
    logits: bool,
) -> Trace:  # fmt: skip
    config = model.config
    rows = F.embedding(ids, weights["token_weight"]) if token_rows is None else token_rows
    packed, _ = model.pack(ids)  # which says where RoBERTa's positions begin
    positions = packed.positions.view(ids.shape)
    parts = {"token": rows, "position": weights["position_weight"][positions]}
    if config.types:
        parts["type"] = weights["type_weight"][0].expand_as(rows)
    embeddings = _sum(parts)
    x = first = _encoder_norm(model, embeddings, weights, "embedding_norm.")
    layers = []
    for number in range(config.layers):
        layers.append(_encoder_layer(model, number, x, weights))
        x = layers[-1].output
    pooled = _pool(model, x, weights)
    found = None
    if config.task and logits:
        classified = pooled if config.task == "sequence" and pooled is not None else x
        found = plain.linear(classified, weights, "classifier.")
        if model.ngrams is not None:
            if ngrams is None:
                ngrams = ngram_shares(model.ngrams, packed, weights).sum(1)
            found = found + ngrams
    return Trace(parts, embeddings, first, layers, x, pooled, found)


def _encoder_norm(model: Encoder, x: Tensor, weights: Weights, name: str) -> Tensor:
    eps = model.config.norm_eps
    return plain.layer_norm(x, weights[name + "weight"], weights[name + "bias"], eps)


def _encoder_layer(model: Encoder, number: int, x: Tensor, weights: Weights) -> Layer:
    config, at, T = model.config, f"blocks.{number}.", x.shape[1]
    qkv = plain.linear(x, weights, at + "qkv.")
    query, key, value = plain.split_heads(qkv, config.heads, config.heads)
    seen = plain.seen_by(T, causal=False, device=x.device)
    attention = plain.attend((query, key, value), (query, key), seen, weights, at + "out.")
    middle = x + attention.out
    ffn_in = _encoder_norm(model, middle, weights, at + "attention_norm.")
    ffn = plain.feed_forward(ffn_in, weights, at + "ffn.", config.activation)
    output = _encoder_norm(model, ffn_in + ffn.out, weights, at + "ffn_norm.")
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


def _pool(model: Encoder, x: Tensor, weights: Weights) -> Tensor | None:
    """One vector a text: what the classifier of sequences looks at, or what `embed` gives."""
    config = model.config
    if config.task == "token":
        return None
    if config.task == "sequence":
        if config.head == "mean":
            return x.mean(1)
        dense = plain.linear(x[:, 0], weights, "pooler.")
        return torch.relu(dense) if config.style == "distilbert" else torch.tanh(dense)
    vectors = x[:, 0] if config.pooling == "cls" else x.mean(1)
    if config.normalize:
        vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return vectors
