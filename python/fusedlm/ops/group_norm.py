"""Group norm (Wu & He 2018, arXiv:1803.08494)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, core, define, dense, empty, same_autocast_dtype


def _planes(x: Tensor) -> Tensor:
    """x [B, C, ...] as a dense [B, C, S]."""
    return x.reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:])).contiguous()


def _forward(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    planes = _planes(x)
    y = empty(x.shape, x.dtype, x)
    mean, rstd = (empty((x.shape[0], groups), torch.float32, x) for _ in range(2))
    core.group_norm_forward(
        planes,
        dense(weight),
        dense(bias),
        y.view(planes.shape),
        mean,
        rstd,
        groups,
        eps,
    )
    return y, mean, rstd


def _forward_fake(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0], groups), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


def _backward(
    dy: Tensor, x: Tensor, groups: int, weight: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    planes = _planes(x)
    dx = empty(x.shape, x.dtype, x)
    dweight, dbias = (empty(x.shape[1:2], torch.float32, x) for _ in range(2))
    core.group_norm_backward(
        _planes(dy),
        planes,
        dense(weight),
        mean,
        rstd,
        dx.view(planes.shape),
        dweight,
        dbias,
        groups,
    )
    return dx, dweight, dbias


def _backward_fake(
    dy: Tensor, x: Tensor, groups: int, weight: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dweight, dbias = (x.new_empty(x.shape[1:2], dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), dweight, dbias


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, ctx.groups, weight, bias, _ = inputs
    _, mean, rstd = output
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)


def _autograd(
    ctx: Context, dy: Tensor, _dmean: Tensor, _drstd: Tensor
) -> tuple[Tensor | None, ...]:
    x, weight, mean, rstd = ctx.saved_tensors
    dx, dweight, dbias = torch.ops.fusedlm.group_norm_backward(
        dy, x, ctx.groups, weight, mean, rstd
    )
    return (
        dx,
        None,
        None if weight is None else dweight.to(weight.dtype),
        None if ctx.bias_dtype is None else dbias.to(ctx.bias_dtype),
        None,
    )


define(
    "group_norm(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "group_norm_backward(Tensor dy, Tensor x, int groups, Tensor? weight, Tensor mean, Tensor rstd)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over each group of C / groups channels.

    x [B, C, ...] float32, bfloat16 or float16; weight, bias [C] like x or float32. Returns y like x, dense.
    Raises ValueError naming the argument whose shape or dtype does not fit.
    """
    _rules.check_group_norm(x)
    (x,) = same_autocast_dtype(x)
    y: Tensor = torch.ops.fusedlm.group_norm(x, groups, weight, bias, eps)[0]
    return y
