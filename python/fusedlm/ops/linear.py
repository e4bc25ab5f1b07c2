"""Linear layer with bias, activation and residual fused into the product's epilogue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, as_rows, core, define, dense, empty, grad_dtype, same_autocast_dtype


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str,
    weight_grad: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows = as_rows(x)
    y = empty((*x.shape[:-1], weight.shape[0]), x.dtype, x)
    pre = empty(y.shape if activation != "none" else (0,), x.dtype, x)
    core.linear_forward(
        rows,
        weight.contiguous(),
        dense(bias),
        None if residual is None else as_rows(residual),
        y.view(-1, weight.shape[0]) if y.numel() else y.reshape(rows.shape[0], weight.shape[0]),
        None if activation == "none" else pre.view(rows.shape[0], weight.shape[0]),
        activation,
    )
    return y, pre


def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str,
    weight_grad: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    return y, x.new_empty(y.shape if activation != "none" else (0,))


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, pre: Tensor, activation: str, need_dx: bool,
    need_dweight: bool, need_dbias: bool, weight_grad: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows, outputs = as_rows(x), weight.shape[0]
    dx = empty(x.shape if need_dx else (0,), x.dtype, x)
    dweight = empty(weight.shape if need_dweight else (0,), weight_grad, x)
    dbias = empty((outputs if need_dbias else 0,), torch.float32, x)
    core.linear_backward(
        as_rows(dy),
        rows,
        weight.contiguous(),
        None if activation == "none" else pre.view(rows.shape[0], outputs),
        dx.view(rows.shape) if need_dx else None,
        dweight if need_dweight else None,
        dbias if need_dbias else None,
        activation,
    )
    return dx, dweight, dbias


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, pre: Tensor, activation: str, need_dx: bool,
    need_dweight: bool, need_dbias: bool, weight_grad: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        x.new_empty(x.shape if need_dx else (0,)),
        weight.new_empty(weight.shape if need_dweight else (0,), dtype=weight_grad),
        x.new_empty(weight.shape[0] if need_dbias else 0, dtype=torch.float32),
    )


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, activation, weight_grad = inputs
    _, pre = output
    ctx.activation, ctx.weight_grad = activation, weight_grad
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(pre)
    ctx.set_materialize_grads(False)  # pre gets none, and zeros for it would cost a pass
    ctx.save_for_backward(x, weight, pre)


def _autograd(ctx: Context, dy: Tensor | None, _dpre: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    x, weight, pre = ctx.saved_tensors
    need_dx, need_dweight, need_dbias = ctx.needs_input_grad[:3]
    need_dbias = need_dbias and ctx.bias_dtype is not None
    dx: Tensor | None = None
    dweight: Tensor | None = None
    dbias: Tensor | None = None
    if need_dx or need_dweight or need_dbias:
        dx, dweight, dbias = torch.ops.fusedlm.linear_backward(
            dy, x, weight, pre, ctx.activation, need_dx, need_dweight, need_dbias, ctx.weight_grad
        )
    return (
        dx if need_dx else None,
        dweight if need_dweight else None,
        dbias.to(ctx.bias_dtype) if dbias is not None and need_dbias else None,
        dy if ctx.has_residual else None,
        None,
        None,
    )


define(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str activation,"
    " ScalarType weight_grad) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "linear_backward(Tensor dy, Tensor x, Tensor weight, Tensor pre, str activation, bool need_dx,"
    " bool need_dweight, bool need_dbias, ScalarType weight_grad) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """activation(x weight^T + bias) + residual.

    x [..., K] float32, bfloat16 or float16; weight [O, K] and bias [O] like x or float32 (float32
    parameters serve half activations without a copy, and where `weight.grad_dtype` is a half type their
    gradients are written as such); residual [..., O] like x; activation None, "relu",
    "gelu" (erf), "gelu_tanh" or "silu". Returns [..., O] like x.
    Raises ValueError naming the argument that does not fit.
    """
    kernel = _rules.linear_activation(activation)
    _rules.check_rows("linear", "x", x)
    x, residual = same_autocast_dtype(x, residual)
    y: Tensor = torch.ops.fusedlm.linear(x, weight, bias, residual, kernel, grad_dtype(weight))[0]
    return y
