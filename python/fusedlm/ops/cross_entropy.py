"""Cross-entropy of logits that are given, with torch's signature."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from fusedlm import _rules

from ._support import Context, as_rows, autocast_dtype, core, define, dense, empty

_OPTIONS = (
    "Tensor? class_weight, str reduction, int ignore_index, float label_smoothing, float z_loss,"
    " float softcap"
)


def _forward(
    logits: Tensor, targets: Tensor, class_weight: Tensor | None, reduction: str, *options: float
) -> tuple[Tensor, Tensor]:
    rows = as_rows(logits)
    loss = empty((rows.shape[0] if reduction == "none" else 1,), torch.float32, logits)
    lse = empty((rows.shape[0],), torch.float32, logits)
    core.cross_entropy_forward(
        rows, targets.reshape(-1).contiguous(), dense(class_weight), loss, lse, reduction, *options
    )
    return loss.view(targets.shape if reduction == "none" else ()), lse


def _forward_fake(
    logits: Tensor, targets: Tensor, class_weight: Tensor | None, reduction: str, *options: float
) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(targets.shape if reduction == "none" else (), dtype=torch.float32)
    return loss, logits.new_empty(targets.numel(), dtype=torch.float32)


def _backward(
    dloss: Tensor, logits: Tensor, targets: Tensor, lse: Tensor, class_weight: Tensor | None,
    *options: Any,
) -> Tensor:  # fmt: skip
    dlogits = empty(logits.shape, logits.dtype, logits)
    rows = as_rows(logits)
    core.cross_entropy_backward(
        dloss.reshape(-1).contiguous(),
        rows,
        targets.reshape(-1).contiguous(),
        dense(class_weight),
        lse,
        dlogits.view(rows.shape),
        *options,
    )
    return dlogits


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, targets, class_weight, *ctx.options = inputs
    _, lse = output
    ctx.save_for_backward(logits, targets, lse, class_weight)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse)


def _autograd(ctx: Context, dloss: Tensor | None, _dlse: None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 7
    if dloss is None:
        return None, *nothing
    return torch.ops.fusedlm.cross_entropy_backward(
        dloss, *ctx.saved_tensors, *ctx.options
    ), *nothing


define(
    f"cross_entropy(Tensor logits, Tensor targets, {_OPTIONS}) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    f"cross_entropy_backward(Tensor dloss, Tensor logits, Tensor targets, Tensor lse, {_OPTIONS})"
    " -> Tensor",
    _backward,
    lambda dloss, logits, *_: logits.new_empty(logits.shape),
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy` without log-probabilities in memory.

    input [V], [N, V] or [N, V, d1, ...] float32 or bfloat16, on CUDA float16 too; target without V, int64;
    weight [V].
    One pass over the logits forward and one backward; float32 sums, no float32 copy. Where V is not
    the last dimension in memory, the logits are copied. z_loss and softcap are those of
    `linear_cross_entropy`, which is the better choice where the logits come from a linear layer.

    Returns the loss in the dtype of input (under autocast float32). Class probabilities and other dtypes
    go to torch's own function. Raises ValueError naming the argument that does not
    fit, or the target out of range; on a GPU, whose targets are not looked at, the loss is NaN instead.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if not _has_kernel(input, target):
        if z_loss or softcap:
            raise NotImplementedError(
                "cross_entropy: z_loss and softcap are for class indices and logits in float32 or"
                f" bfloat16, on CUDA float16 too, got {input.dtype} on {input.device} and {target.dtype}"
            )
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing,
        )  # fmt: skip
    _rules.check_reduction("cross_entropy", reduction)
    if input.dim() == 0 or target.shape != input.shape[:1] * (input.dim() > 1) + input.shape[2:]:
        raise ValueError(
            f"cross_entropy: target has shape {list(target.shape)} and input {list(input.shape)},"
            " expected [N, d1, ...] and [N, V, d1, ...] (or [] and [V])"
        )
    loss: Tensor = torch.ops.fusedlm.cross_entropy(
        input.movedim(1, -1) if input.dim() > 2 else input,
        target,
        None if weight is None else weight.float(),
        reduction,
        ignore_index,
        float(label_smoothing),
        float(z_loss),
        float(softcap),
    )[0]
    return loss if autocast_dtype(input) else loss.to(input.dtype)


def _has_kernel(input: Tensor, target: Tensor) -> bool:
    half = (torch.bfloat16, torch.float16) if input.is_cuda else (torch.bfloat16,)
    return input.dtype in (torch.float32, *half) and not target.is_floating_point()
