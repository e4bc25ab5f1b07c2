"""The pieces of a transformer in plain torch, each as its formula has it: nothing is fused or skipped."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedlm._rules import FFN_ACTIVATIONS
from fusedlm.nn.feed_forward import PLAIN_ACTIVATIONS

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Attention:
    """Attention of one layer. H query heads, G heads of keys and values, each of width D.

    `query`, `key` and `value` [B, H or G, T, D] are as projected; `query_used` and `key_used` what is
    multiplied: normed (where the model does that) and turned by their positions (with RoPE). `scores`
    [B, H, T, T] are query_used . key_used / sqrt(D), of all pairs; `seen` [T, T] says which count;
    `weights` are their softmax, 0 where not seen; `mixed` [B, H, T, D] the sums of values by weights;
    `out` [B, T, C] is what goes into the residual.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_used: Tensor
    key_used: Tensor
    scores: Tensor
    seen: Tensor
    weights: Tensor
    mixed: Tensor
    out: Tensor


@dataclass(frozen=True)
class FeedForward:
    """`up` and `gate` (or None) [B, T, F] are products; `hidden` is what `down` gets; `out` [B, T, C]."""

    up: Tensor
    gate: Tensor | None
    hidden: Tensor
    out: Tensor


def below(weights: Weights, name: str) -> dict[str, Tensor]:
    """The parameters whose names begin so, without that beginning."""
    return {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}


def sum_of(parts: Mapping[str, Tensor]) -> Tensor:
    return functools.reduce(operator.add, parts.values())


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """x W^T + b, of the parameters `name`weight and, if there is one, `name`bias."""
    y = x @ weights[name + "weight"].T
    bias = weights.get(name + "bias")
    return y if bias is None else y + bias


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x [..., T, D]: each pair of numbers is turned by its angle; cos, sin [T, D / 2]."""
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
    else:
        a, b = x.chunk(2, -1)
    turned = (a * cos - b * sin, a * sin + b * cos)
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


def seen_by(T: int, *, causal: bool, window: int = 0, device: torch.device | None = None) -> Tensor:
    """[T, T] bool: whether the token of the row sees that of the column; window 0 is none."""
    distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen & (distance < window) if window else seen


def attend(
    parts: tuple[Tensor, Tensor, Tensor], used: tuple[Tensor, Tensor], seen: Tensor,
    weights: Weights, out: str,
) -> Attention:  # fmt: skip
    """From `parts` (query, key, value) and `used` (query, key) on; `out` names the last product."""
    query, key, value = parts
    query_used, key_used = used
    shared = query.shape[1] // key.shape[1]  # query heads that look at the same keys and values
    scores = query_used @ key_used.repeat_interleave(shared, 1).mT / math.sqrt(query.shape[-1])
    shares = scores.masked_fill(~seen, -math.inf).softmax(-1)
    mixed = shares @ value.repeat_interleave(shared, 1)
    result = linear(mixed.transpose(1, 2).flatten(2), weights, out)
    return Attention(query, key, value, query_used, key_used, scores, seen, shares, mixed, result)


def feed_forward(x: Tensor, weights: Weights, name: str, activation: str) -> FeedForward:
    act = PLAIN_ACTIVATIONS[FFN_ACTIVATIONS[activation][0]]
    up = linear(x, weights, name + "up_")
    gate: Tensor | None = None
    if name + "gate_weight" not in weights:
        hidden = act(up)
    else:
        gate = linear(x, weights, name + "gate_")
        hidden = act(gate) * up
    return FeedForward(up, gate, hidden, linear(hidden, weights, name + "down_"))


def split_heads(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, T, (H + 2 G) D] -> query [B, H, T, D], key and value [B, G, T, D]."""
    turned = qkv.view(*qkv.shape[:2], heads + 2 * kv_heads, -1).transpose(1, 2)
    return turned[:, :heads], turned[:, heads:-kv_heads], turned[:, -kv_heads:]
