"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its tables."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._support import core, define, dense_last, same_autocast_dtype


def _forward(x, cos, sin, positions, interleaved: bool, inverse: bool):
    y = torch.empty(x.shape, dtype=x.dtype)
    core.rope(dense_last(x), cos.contiguous(), sin.contiguous(), positions, y, interleaved, inverse)
    return y


def _fake(x, cos, sin, positions, interleaved, inverse):
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output):
    _, cos, sin, positions, interleaved, inverse = inputs
    ctx.flags = interleaved, not inverse
    ctx.save_for_backward(cos, sin, positions)


def _autograd(ctx, dy):
    cos, sin, positions = ctx.saved_tensors
    return torch.ops.fusedlm.rope(dy, cos, sin, positions, *ctx.flags), None, None, None, None, None


define(
    "rope(Tensor x, Tensor cos, Tensor sin, Tensor? positions, bool interleaved, bool inverse)"
    " -> Tensor",
    _forward,
    _fake,
    setup_context=_setup_context,
    backward=_autograd,
)


def rope(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    positions: Tensor | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Turns the first R elements of each head by its token's angles; the others are copied.

    x [B, T, H, D] float32 or bfloat16; cos, sin [P, R / 2] float32 as from `rope_tables`. positions
    [T] or [B, T] int64 choose the rows, by default 0 to T - 1. Pairs are (i, i + R / 2) as in
    GPT-NeoX and Hugging Face's Llama, or (2i, 2i + 1) if `interleaved`, as in GPT-J and the paper.
    The tables get no gradient. Raises ValueError naming the argument that does not fit.
    """
    (x,) = same_autocast_dtype(x)
    if x.dim() != 4:
        raise ValueError(f"rope: x has shape {list(x.shape)}, expected [B, T, H, D]")
    if positions is not None:
        if positions.dim() not in (1, 2) or positions.shape[-1] != x.shape[1]:
            raise ValueError(
                f"rope: positions has shape {list(positions.shape)}, expected [T] or [B, T] with"
                f" T = {x.shape[1]}"
            )
        positions = positions.expand(x.shape[0], x.shape[1])
    return torch.ops.fusedlm.rope(x, cos, sin, positions, interleaved, False)


def rope_tables(
    length: int, dim: int, base: float = 10000.0, *, scaling: dict | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, dim / 2] float32 of the angles position * base^(-2i / dim).

    `scaling` is Hugging Face's rope_scaling: rope_type "linear" divides all angles by factor;
    "llama3" divides those of wavelengths beyond original_max_position_embeddings / low_freq_factor
    by factor, leaves those below .../high_freq_factor and blends between. Raises ValueError.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"rope_tables: dim is {dim}, expected an even number of at least 2")
    if length < 1:
        raise ValueError(f"rope_tables: length is {length}, expected at least 1")
    rates = base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), _scaled(rates, scaling))
    return angles.cos().float(), angles.sin().float()


def _scaled(rates: Tensor, scaling: dict | None) -> Tensor:
    if scaling is None:
        return rates
    kind = scaling.get("rope_type", scaling.get("type"))
    try:
        if kind == "default":
            return rates
        if kind == "linear":
            return rates / scaling["factor"]
        if kind == "llama3":
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            turns = scaling["original_max_position_embeddings"] * rates / (2 * math.pi)
            kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
            return rates * (kept + (1.0 - kept) / scaling["factor"])
    except KeyError as error:
        raise ValueError(f"rope_tables: scaling of rope_type {kind!r} lacks {error}") from None
    raise ValueError(
        f"rope_tables: scaling has rope_type {kind!r}, expected default, linear or llama3"
    )
