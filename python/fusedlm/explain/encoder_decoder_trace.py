"""An encoder-decoder in plain torch: a source, and beside it a target."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm.models import EncoderDecoder
from fusedlm.models.copying import LOOK_BACK, tokens_before
from fusedlm.models.packed import Packed

from . import plain
from .decoder_trace import norm
from .plain import Attention, Weights
from .record import Copied, Layer, Trace

_LEAST = 1e-20  # probability of being copied, as in fusedlm.models.copying
_Turn = Callable[[Tensor], Tensor]


def encoder_decoder(
    model: EncoderDecoder, ids: Tensor, source: Packed, source_rows: Tensor | None,
    token_rows: Tensor | None, weights: Weights, logits: bool,
) -> Trace:  # fmt: skip
    """`trace` of targets [B, T] of one source; source_rows [B, S, C] stand in for its embeddings."""
    config = model.config
    read = _encoder(model, source, source_rows, weights)
    positions = torch.arange(ids.shape[1])
    parts = _embedded(model, ids, positions, None, token_rows, weights)
    turn = _turn(model, positions)
    x = first = plain.sum_of(parts)
    layers = []
    for number in range(config.decoder_layers):
        layers.append(_layer(model, f"decoder.{number}.", x, weights, turn, read.final))
        x = layers[-1].output
    final = norm(config, x, weights, "final_norm.")

    def copied(x: Tensor) -> Copied | None:
        return None if model.copying is None else _copied(x, ids, source, read.final, weights)

    def says(stream: Tensor, row: int | None) -> Tensor:
        x = norm(config, stream, weights, "final_norm.")
        copying = copied(x)
        made = (x if row is None else x[:, row]) @ weights["embedding.weight"].T
        if copying is None:
            return made
        gate, looks = copying.gate[..., None], copying.weights
        if row is not None:
            gate, looks = gate[:, row], looks[:, row]
        there = looks @ F.one_hot(source.tokens, made.shape[-1]).to(made.dtype)
        kept = F.logsigmoid(-gate) + made.log_softmax(-1)
        return torch.logaddexp(kept, F.logsigmoid(gate) + there.clamp_min(_LEAST).log())

    return Trace(
        parts, first, first, layers, final, None, says(x, None) if logits else None, says,
        source=read, copying=copied(final),
    )  # fmt: skip


def _encoder(model: EncoderDecoder, source: Packed, rows: Tensor | None, weights: Weights) -> Trace:
    parts = _embedded(model, source.tokens[None], source.positions, source.types, rows, weights)
    turn = _turn(model, source.positions)
    x = first = plain.sum_of(parts)
    layers = []
    for number in range(model.config.layers):
        layers.append(_layer(model, f"encoder.{number}.", x, weights, turn, None))
        x = layers[-1].output
    memory = norm(model.config, x, weights, "encoder_norm.")
    return Trace(parts, first, first, layers, memory, None, None, None)


def _embedded(
    model: EncoderDecoder, ids: Tensor, positions: Tensor, kinds: Tensor | None,
    rows: Tensor | None, weights: Weights,
) -> dict[str, Tensor]:  # fmt: skip
    rows = F.embedding(ids, weights["embedding.weight"]) if rows is None else rows
    parts = {"token": rows}
    if model.config.position == "learned":
        parts["position"] = weights["embedding.position_weight"][positions].expand_as(rows)
    if kinds is not None:
        parts["part"] = weights["part_weight"][kinds].expand_as(rows)
    return parts


def _turn(model: EncoderDecoder, positions: Tensor) -> _Turn:
    """What turns queries and keys [B, H, T, D] by their positions, if anything does."""
    rope = model.rope
    if rope is None:
        return lambda part: part
    cos, sin = (table[positions] for table in rope.tables(len(positions), positions))
    return lambda part: plain.rotate(part, cos.to(part.dtype), sin.to(part.dtype), False)


def _layer(
    model: EncoderDecoder, at: str, x: Tensor, weights: Weights, turn: _Turn, memory: Tensor | None
) -> Layer:
    """Of the encoder, or, with a memory [B, S, C], of the decoder."""
    config = model.config
    attention_in = norm(config, x, weights, at + "attention_norm.")
    qkv = plain.linear(attention_in, weights, at + "attention.qkv.")
    parts = plain.split_heads(qkv, config.heads, config.heads)
    seen = plain.seen_by(x.shape[1], causal=memory is not None)
    used = turn(parts[0]), turn(parts[1])
    attention = plain.attend(parts, used, seen, weights, at + "attention.out.")
    middle = x + attention.out
    cross_in, cross, before = None, None, middle
    if memory is not None:
        cross_in = norm(config, middle, weights, at + "cross_norm.")
        cross = _cross(cross_in, memory, weights, at + "cross.", config.heads)
        before = middle + cross.out
    ffn_in = norm(config, before, weights, at + "ffn_norm.")
    ffn = plain.feed_forward(ffn_in, weights, at + "ffn.", config.activation)
    return Layer(
        x, attention_in, attention, middle, ffn_in, ffn, before + ffn.out,
        cross_in=cross_in, cross=cross, crossed=None if cross is None else before,
    )  # fmt: skip


def _cross(x: Tensor, memory: Tensor, weights: Weights, at: str, heads: int) -> Attention:
    query = plain.linear(x, weights, at + "query.").unflatten(-1, (heads, -1)).transpose(1, 2)
    both = plain.linear(memory, weights, at + "key_value.").unflatten(-1, (2 * heads, -1))
    key, value = both.transpose(1, 2).split(heads, dim=1)
    seen = torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool)
    return plain.attend((query, key, value), (query, key), seen, weights, at + "out.")


def _copied(x: Tensor, ids: Tensor, source: Packed, memory: Tensor, weights: Weights) -> Copied:
    """What the decoder's last norm x [B, T, C] copies (See et al. 2017, arXiv:1704.04368)."""
    query = plain.linear(x, weights, "copying.query.")
    key = plain.linear(memory, weights, "copying.key.")
    written = tokens_before(Packed.of(ids.tolist()), ending_with=True)
    written = written.view(*ids.shape, 1, LOOK_BACK)
    alike = written == tokens_before(source)
    count = alike.to(torch.int64).cumprod(-1).sum(-1)  # [B, T, S]
    scores = query @ key.mT / query.shape[-1] ** 0.5 + weights["copying.follow_weight"][count]
    gate = plain.linear(x, weights, "copying.gate.").squeeze(-1)
    gate = gate + weights["copying.gate_follow_weight"][count.amax(-1)]
    return Copied(scores.softmax(-1), gate)
