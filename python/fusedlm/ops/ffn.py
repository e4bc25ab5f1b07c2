"""Feed-forward block: up product, activation (or gate), down product and residual, as one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import (
    Context,
    as_rows,
    core,
    define,
    dense,
    empty,
    grad_dtype,
    rows_of,
    same_autocast_dtype,
)


def _forward(
    x: Tensor, up_weight: Tensor, up_bias: Tensor | None, gate_weight: Tensor | None,
    gate_bias: Tensor | None, down_weight: Tensor, down_bias: Tensor | None,
    residual: Tensor | None, activation: str, weight_grad: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows = as_rows(x)
    hidden = (rows.shape[0], up_weight.shape[0])
    y = empty(x.shape, x.dtype, x)
    up = empty(hidden, x.dtype, x)
    gate = empty(hidden if gate_weight is not None else (0,), x.dtype, x)
    core.ffn_forward(
        rows,
        dense(up_weight),
        dense(up_bias),
        dense(gate_weight),
        dense(gate_bias),
        dense(down_weight),
        dense(down_bias),
        None if residual is None else as_rows(residual),
        up,
        None if gate_weight is None else gate,
        y.view(rows.shape),
        activation,
    )
    return y, up, gate


def _forward_fake(
    x: Tensor, up_weight: Tensor, up_bias: Tensor | None, gate_weight: Tensor | None,
    gate_bias: Tensor | None, down_weight: Tensor, down_bias: Tensor | None,
    residual: Tensor | None, activation: str, weight_grad: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hidden = (rows_of(x), up_weight.shape[0])
    gate = x.new_empty(hidden if gate_weight is not None else (0,))
    return x.new_empty(x.shape), x.new_empty(hidden), gate


def _gradients(
    new_empty: Callable[[Sequence[int], torch.dtype], Tensor], up_weight: Tensor,
    down_weight: Tensor, wanted: list[bool], dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """dup_weight, dup_bias, dgate_weight, dgate_bias, ddown_weight, ddown_bias; [0] where not wanted."""
    width, hidden = down_weight.shape
    matrix, vector = (up_weight.shape, dtype), ((hidden,), torch.float32)
    shapes = [matrix, vector, matrix, vector, (down_weight.shape, dtype), ((width,), torch.float32)]
    return [
        new_empty(shape if want else (0,), kind)
        for (shape, kind), want in zip(shapes, wanted, strict=True)
    ]


def _backward(
    dy: Tensor, x: Tensor, up_weight: Tensor, gate_weight: Tensor | None, down_weight: Tensor,
    up: Tensor, gate: Tensor, wanted: list[bool], activation: str, weight_grad: torch.dtype,
) -> tuple[Tensor, ...]:  # fmt: skip
    rows = as_rows(x)
    dx = empty(x.shape, x.dtype, x)
    grads = _gradients(partial(empty, like=x), up_weight, down_weight, wanted, weight_grad)
    core.ffn_backward(
        as_rows(dy),
        rows,
        dense(up_weight),
        dense(gate_weight),
        dense(down_weight),
        up,
        None if gate_weight is None else gate,
        dx.view(rows.shape),
        *(grad if want else None for grad, want in zip(grads, wanted, strict=True)),
        activation,
    )
    return dx, *grads


def _backward_fake(
    dy: Tensor, x: Tensor, up_weight: Tensor, gate_weight: Tensor | None, down_weight: Tensor,
    up: Tensor, gate: Tensor, wanted: list[bool], activation: str, weight_grad: torch.dtype,
) -> tuple[Tensor, ...]:  # fmt: skip
    def make(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return x.new_empty(shape, dtype=dtype)

    return x.new_empty(x.shape), *_gradients(make, up_weight, down_weight, wanted, weight_grad)


def _setup_context(
    ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    (
        x, up_weight, up_bias, gate_weight, gate_bias, down_weight, down_bias, residual, activation,
        weight_grad,
    ) = inputs  # fmt: skip
    _, up, gate = output
    ctx.activation, ctx.weight_grad = activation, weight_grad
    ctx.dtypes = [
        None if p is None else weight_grad if p.dim() > 1 else p.dtype
        for p in (up_weight, up_bias, gate_weight, gate_bias, down_weight, down_bias)
    ]
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(up, gate)
    ctx.set_materialize_grads(False)  # up and gate get none, and zeros for them would cost a pass
    ctx.save_for_backward(x, up_weight, gate_weight, down_weight, up, gate)


def _autograd(
    ctx: Context, dy: Tensor | None, _dup: None, _dgate: None
) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 10
    x, up_weight, gate_weight, down_weight, up, gate = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[1:7])  # frozen parameters cost no product
    dx, *grads = torch.ops.fusedlm.ffn_backward(
        dy,
        x,
        up_weight,
        gate_weight,
        down_weight,
        up,
        gate,
        wanted,
        ctx.activation,
        ctx.weight_grad,
    )
    grads = [
        g.to(dtype) if want else None
        for g, dtype, want in zip(grads, ctx.dtypes, wanted, strict=True)
    ]
    return dx, *grads, dy if ctx.has_residual else None, None, None


define(
    "ffn(Tensor x, Tensor up_weight, Tensor? up_bias, Tensor? gate_weight, Tensor? gate_bias,"
    " Tensor down_weight, Tensor? down_bias, Tensor? residual, str activation, ScalarType weight_grad)"
    " -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "ffn_backward(Tensor dy, Tensor x, Tensor up_weight, Tensor? gate_weight, Tensor down_weight,"
    " Tensor up, Tensor gate, bool[] wanted, str activation, ScalarType weight_grad)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def ffn(
    x: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    *,
    gate_weight: Tensor | None = None,
    up_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    activation: str = "gelu",
    residual: Tensor | None = None,
) -> Tensor:
    """Feed-forward block with its residual; only the preactivations are kept for the backward.

    x, residual [..., C] float32, bfloat16 or float16; up_weight, gate_weight [F, C]; down_weight [C, F];
    up_bias, gate_bias [F]; down_bias [C]; activation "relu", "gelu" (erf), "gelu_tanh", or with
    gate_weight "swiglu", "geglu" or "geglu_tanh" (Shazeer 2020, arXiv:2002.05202). Returns [..., C] like x.
    Raises ValueError naming the argument that does not fit.
    """
    kernel = _rules.ffn_activation(activation, gate_weight is not None)
    _rules.check_rows("ffn", "x", x)
    x, residual = same_autocast_dtype(x, residual)
    y: Tensor = torch.ops.fusedlm.ffn(
        x, up_weight, up_bias, gate_weight, gate_bias, down_weight, down_bias, residual, kernel,
        grad_dtype(up_weight),
    )[0]  # fmt: skip
    return y
