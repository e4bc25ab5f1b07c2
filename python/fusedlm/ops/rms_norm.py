"""RMSNorm, with the residual add fused (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, as_rows, core, define, empty, rows_of, same_autocast_dtype


def _forward(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = as_rows(x)
    y = empty(x.shape, x.dtype, x)
    rstd = empty((rows.shape[0],), torch.float32, x)
    total = empty(x.shape if residual is not None else (0,), x.dtype, x)
    core.rms_norm_forward(
        rows,
        None if residual is None else as_rows(residual),
        weight.contiguous(),
        y.view(rows.shape),
        None if residual is None else total.view(rows.shape),
        rstd,
        eps,
    )
    return y, total, rstd


def _forward_fake(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty(x.shape if residual is not None else (0,))
    return x.new_empty(x.shape), total, x.new_empty(rows_of(x), dtype=torch.float32)


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor]:
    rows = as_rows(x)
    dx = empty(x.shape, x.dtype, x)
    dweight = empty(weight.shape, torch.float32, x)
    core.rms_norm_backward(
        as_rows(dy),
        rows,
        weight.contiguous(),
        rstd,
        None if dsum is None else as_rows(dsum),
        dx.view(rows.shape),
        dweight,
    )
    return dx, dweight.to(weight.dtype)


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, residual, _ = inputs
    _, total, rstd = output
    ctx.has_residual = residual is not None
    ctx.save_for_backward(total if ctx.has_residual else x, weight, rstd)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(rstd)


def _autograd(
    ctx: Context, dy: Tensor | None, dtotal: Tensor | None, _drstd: None
) -> tuple[Tensor | None, ...]:
    x, weight, rstd = ctx.saved_tensors
    if not ctx.has_residual:
        dtotal = None
    if dy is None:
        return dtotal, None, dtotal, None
    dx, dweight = torch.ops.fusedlm.rms_norm_backward(dy, x, weight, rstd, dtotal)
    return dx, dweight, dx if ctx.has_residual else None, None


define(
    "rms_norm(Tensor x, Tensor weight, Tensor? residual, float eps) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor? dsum)"
    " -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)


@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, residual: None = None) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, *, residual: Tensor
) -> tuple[Tensor, Tensor]: ...
@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, *, residual: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, *, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x [..., C] float32, bfloat16 or float16; weight [C] like x or float32; residual like x. With `residual`
    returns (y, sum), where sum = x + residual and the norm is taken of sum; otherwise y.
    Raises ValueError naming the argument whose shape or dtype does not fit.
    """
    _rules.check_rows("rms_norm", "x", x)
    x, residual = same_autocast_dtype(x, residual)
    y, total, _ = torch.ops.fusedlm.rms_norm(x, weight, residual, eps)
    return y if residual is None else (y, total)
