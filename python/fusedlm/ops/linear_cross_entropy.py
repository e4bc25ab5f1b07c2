"""Linear layer and cross-entropy in one, without the whole logits in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, as_rows, core, define, dense, empty, same_autocast_dtype

_OPTIONS = (
    "Tensor? class_weight, str reduction, int ignore_index, float label_smoothing, float z_loss,"
    " float softcap, bool need_dx, bool need_dweight, bool need_dbias"
)


def _compute(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, row_grad: Tensor | None,
    class_weight: Tensor | None, reduction: str, ignore_index: int, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    label_smoothing, z_loss, softcap, need_dx, need_dweight, need_dbias = rest
    rows = as_rows(x)
    loss = empty((rows.shape[0] if reduction == "none" else 1,), torch.float32, x)
    dx = empty(x.shape if need_dx else (0,), x.dtype, x)
    dweight = empty(weight.shape if need_dweight else (0,), weight.dtype, x)
    dbias = empty((weight.shape[0] if need_dbias else 0,), torch.float32, x)
    core.linear_cross_entropy(
        rows,
        weight.contiguous(),
        dense(bias),
        targets.reshape(-1).contiguous(),
        dense(class_weight),
        row_grad,
        loss,
        dx.view(rows.shape) if need_dx else None,
        dweight if need_dweight else None,
        dbias if need_dbias else None,
        reduction,
        ignore_index,
        label_smoothing,
        z_loss,
        softcap,
    )
    return loss.view(targets.shape if reduction == "none" else ()), dx, dweight, dbias


def _gradients_fake(
    x: Tensor, weight: Tensor, need_dx: bool, need_dweight: bool, need_dbias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if need_dx else (0,)),
        weight.new_empty(weight.shape if need_dweight else (0,)),
        x.new_empty(weight.shape[0] if need_dbias else 0, dtype=torch.float32),
    )


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    class_weight: Tensor | None, reduction: str, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    if reduction == "none":  # the gradients wait for what arrives at each row
        rest = (*rest[:-3], False, False, False)
    return _compute(x, weight, bias, targets, None, class_weight, reduction, *rest)


def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    class_weight: Tensor | None, reduction: str, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    loss = x.new_empty(targets.shape if reduction == "none" else (), dtype=torch.float32)
    needs = (False,) * 3 if reduction == "none" else rest[-3:]
    return loss, *_gradients_fake(x, weight, *needs)


def _backward(
    drows: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    class_weight: Tensor | None, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    drows = drows.reshape(-1).contiguous()
    return _compute(x, weight, bias, targets, drows, class_weight, "none", *rest)[1:]


def _backward_fake(
    drows: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    class_weight: Tensor | None, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _gradients_fake(x, weight, *rest[-3:])


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, targets, class_weight, reduction, *rest = inputs
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.reduction = reduction
    ctx.rest = rest
    ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
    if reduction == "none":
        ctx.save_for_backward(x, weight, bias, targets, class_weight)
    else:
        ctx.save_for_backward(*gradients)


def _autograd(ctx: Context, dloss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 10
    if dloss is None:
        return (None,) * 3 + nothing
    needs = ctx.needs_input_grad[:3]
    if ctx.reduction == "none":
        options = (*ctx.rest[:-3], *needs)
        gradients = torch.ops.fusedlm.linear_cross_entropy_backward(
            dloss, *ctx.saved_tensors, *options
        )
    else:
        if any(need and not had for need, had in zip(needs, ctx.rest[-3:], strict=True)):
            raise RuntimeError("linear_cross_entropy: a gradient is wanted that was switched off")
        # Aliases, so that whoever is handed one can tell by its storage that this node keeps it too,
        # which it does when the graph is retained (see `tied`).
        gradients = [g.detach() for g in ctx.saved_tensors]
        # loss.backward() itself sends 1: a pass over gradients as large as the vocabulary is saved.
        # (A traced dloss is a subclass, and its value is not known; one on a GPU would be waited for.)
        if type(dloss) is not Tensor or not dloss.is_cpu or dloss.item() != 1.0:
            gradients = [g * dloss for g in gradients]
    return (
        *(
            g.to(dtype) if need else None
            for g, need, dtype in zip(gradients, needs, ctx.dtypes, strict=True)
        ),
        *nothing,
    )


define(
    "linear_cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor targets,"
    f" {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "linear_cross_entropy_backward(Tensor drows, Tensor x, Tensor weight, Tensor? bias,"
    f" Tensor targets, {_OPTIONS.replace('str reduction, ', '')}) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    class_weight: Tensor | None = None,
) -> Tensor:
    """cross_entropy(x weight^T + bias, targets) with only a chunk of the logits in memory at a time.

    x [..., C] float32, bfloat16 or float16; weight [V, C] and bias [V] float32, bfloat16 or float16; targets [...]
    int64; class_weight [V]. The options are those of torch's cross_entropy, and: softcap c makes
    logits c tanh(logits / c); z_loss adds z_loss * logsumexp^2 for each row that counts, weighted
    by its class. Returns the loss, float32: a scalar, or [...] with reduction "none".

    Sums are float32. With "mean" and "sum" the gradients are computed along with the loss; of a
    float16 x they wait for what arrives at the loss, since without its scale they would vanish.
    Raises ValueError naming the argument that does not fit, or the target out of range; on a GPU, whose targets
    are not looked at, the loss is NaN instead.
    """
    _rules.check_rows("linear_cross_entropy", "x", x)
    _rules.check_cross_entropy(x.shape, targets.shape, reduction)
    (x,) = same_autocast_dtype(x)
    if x.dtype == torch.float16 and reduction != "none":
        return _of_rows(
            x, weight, targets, bias=bias, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap,
            class_weight=class_weight,
        )  # fmt: skip
    grad = torch.is_grad_enabled()
    loss: Tensor = torch.ops.fusedlm.linear_cross_entropy(
        x,
        weight,
        bias,
        targets,
        class_weight,
        reduction,
        ignore_index,
        float(label_smoothing),
        float(z_loss),
        float(softcap),
        grad and x.requires_grad,
        grad and weight.requires_grad,
        grad and bias is not None and bias.requires_grad,
    )[0]
    return loss


def _of_rows(
    x: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int, reduction: str,
    class_weight: Tensor | None, **options: Any,
) -> Tensor:  # fmt: skip
    """The reduced loss from those of the rows. A mean divides each row's gradient by their number:
    most of its elements would fall below what float16 holds, before the scale that a user gives the
    loss arrives. Here it arrives first."""
    losses = linear_cross_entropy(
        x, weight, targets, ignore_index=ignore_index, reduction="none", class_weight=class_weight,
        **options,
    )  # fmt: skip
    if reduction == "sum":
        return losses.sum()
    counted = (targets != ignore_index).float()
    if class_weight is not None:
        counted = counted * class_weight[targets.clamp(0, weight.shape[0] - 1)]
    return losses.sum() / counted.sum()
