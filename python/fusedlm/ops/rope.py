"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, core, define, dense_last, empty, same_autocast_dtype


def _forward(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, heads: int, interleaved: bool,
    inverse: bool,
) -> Tensor:  # fmt: skip
    y = empty(x.shape, x.dtype, x)
    turned = dense_last(x)[:, :, :heads]
    core.rope(
        turned, cos.contiguous(), sin.contiguous(), positions, y[:, :, :heads], interleaved, inverse
    )
    if heads < x.shape[2]:
        y[:, :, heads:].copy_(x[:, :, heads:])
    return y


def _fake(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, heads: int, interleaved: bool,
    inverse: bool,
) -> Tensor:  # fmt: skip
    return x.new_empty(x.shape)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, positions, heads, interleaved, inverse = inputs
    ctx.flags = heads, interleaved, not inverse
    ctx.save_for_backward(cos, sin, positions)


def _autograd(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin, positions = ctx.saved_tensors
    return torch.ops.fusedlm.rope(dy, cos, sin, positions, *ctx.flags), *(None,) * 6


define(
    "rope(Tensor x, Tensor cos, Tensor sin, Tensor? positions, int heads, bool interleaved,"
    " bool inverse) -> Tensor",
    _forward,
    _fake,
    setup_context=_setup_context,
    backward=_autograd,
    twice=True,
)


def rope(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    positions: Tensor | None = None,
    heads: int | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Turns the first R elements of each head by its token's angles; the others are copied.

    With `heads` only the first so many heads turn, as the queries and keys of a packed qkv do.
    x [B, T, H, D] float32, bfloat16 or float16; cos, sin [P, R / 2] float32 as from `rope_tables`. positions
    [T] or [B, T] int64 choose the rows, by default 0 to T - 1. Pairs are (i, i + R / 2) as in
    GPT-NeoX and Hugging Face's Llama, or (2i, 2i + 1) if `interleaved`, as in GPT-J and the paper.
    The tables get no gradient. Raises ValueError naming the argument that does not fit; on a GPU, where positions
    are not looked at, what turns by one outside the tables is NaN instead.
    """
    (x,) = same_autocast_dtype(x)
    heads = _rules.check_rope(x, positions, heads)
    if positions is not None:
        positions = positions.expand(x.shape[0], x.shape[1])
    y: Tensor = torch.ops.fusedlm.rope(x, cos, sin, positions, heads, interleaved, False)
    return y


def rope_tables(
    length: int, dim: int, base: float = 10000.0, *, scaling: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, dim / 2] float32 of the angles position * base^(-2i / dim).

    `scaling` is Hugging Face's rope_scaling: rope_type "linear" divides all angles by factor;
    "llama3" divides those of wavelengths beyond original_max_position_embeddings / low_freq_factor
    by factor, leaves those below .../high_freq_factor and blends between; "yarn" (Peng et al. 2023,
    arXiv:2309.00071) leaves pairs that turn beta_fast (32) times in original_max_position_embeddings
    positions, divides the angles of those that turn less than beta_slow (1) times by factor, blends
    between, and multiplies all by attention_factor (0.1 ln factor + 1). Raises ValueError.
    """
    cos, sin = _rules.rope_tables(torch, length, dim, base, scaling)
    return cos.float(), sin.float()
