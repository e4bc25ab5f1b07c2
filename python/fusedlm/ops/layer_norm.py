"""Layer norm, with the residual add fused (Ba et al. 2016, arXiv:1607.06450)."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, as_rows, core, define, dense, empty, rows_of, same_autocast_dtype


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = as_rows(x)
    y = empty(x.shape, x.dtype, x)
    mean = empty((rows.shape[0],), torch.float32, x)
    rstd = empty((rows.shape[0],), torch.float32, x)
    total = empty(x.shape if residual is not None else (0,), x.dtype, x)
    core.layer_norm_forward(
        rows,
        None if residual is None else as_rows(residual),
        weight.contiguous(),
        dense(bias),
        y.view(rows.shape),
        None if residual is None else total.view(rows.shape),
        mean,
        rstd,
        eps,
    )
    return y, total, mean, rstd


def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = rows_of(x)
    total = x.new_empty(x.shape if residual is not None else (0,))
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), total, mean, rstd


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    rows = as_rows(x)
    dx = empty(x.shape, x.dtype, x)
    dweight = empty(weight.shape, torch.float32, x)
    dbias = empty(weight.shape, torch.float32, x)
    core.layer_norm_backward(
        as_rows(dy),
        rows,
        weight.contiguous(),
        mean,
        rstd,
        None if dsum is None else as_rows(dsum),
        dx.view(rows.shape),
        dweight,
        dbias,
    )
    return dx, dweight.to(weight.dtype), dbias.to(weight.dtype)


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, residual, _ = inputs
    _, total, mean, rstd = output
    ctx.has_residual, ctx.has_bias = residual is not None, bias is not None
    ctx.save_for_backward(total if ctx.has_residual else x, weight, mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean, rstd)


def _autograd(
    ctx: Context, dy: Tensor | None, dtotal: Tensor | None, _dmean: None, _drstd: None
) -> tuple[Tensor | None, ...]:
    x, weight, mean, rstd = ctx.saved_tensors
    if not ctx.has_residual:
        dtotal = None
    if dy is None:
        return dtotal, None, None, dtotal, None
    dx, dweight, dbias = torch.ops.fusedlm.layer_norm_backward(dy, x, weight, mean, rstd, dtotal)
    return dx, dweight, dbias if ctx.has_bias else None, dx if ctx.has_residual else None, None


define(
    "layer_norm(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "layer_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor rstd, Tensor? dsum)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *,
    residual: None = None,
) -> Tensor: ...  # fmt: skip
@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *,
    residual: Tensor,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *,
    residual: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip
def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x [..., C] float32, bfloat16 or float16; weight, bias [C] like x or float32; residual like x. With
    `residual` returns (y, sum), where sum = x + residual and the norm is taken of sum; otherwise y.
    Raises ValueError naming the argument whose shape or dtype does not fit.
    """
    _rules.check_rows("layer_norm", "x", x)
    x, residual = same_autocast_dtype(x, residual)
    y, total, _, _ = torch.ops.fusedlm.layer_norm(x, weight, bias, residual, eps)
    return y if residual is None else (y, total)
