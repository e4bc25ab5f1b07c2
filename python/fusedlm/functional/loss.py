"""Linear + cross-entropy with the signature of torch.nn.functional."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm import ops


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
) -> Tensor:
    """`torch.nn.functional.linear_cross_entropy` (torch 2.13) on `ops.linear_cross_entropy`.

    input [K] or [N, K] float32 or bfloat16, linear_weight [V, K], target [] or [N] int64, linear_bias
    and weight [V]. The logits are never whole, with and without `options` (torch's choice of chunks,
    which is ours to make), and all flags keep it so. Returns the loss in the dtype of input.

    linear_weight [V, d1, ..., K], class probabilities and other dtypes go through the whole logits.
    Raises ValueError naming the argument that does not fit.
    """
    if input.dim() not in (1, 2) or linear_weight.dim() < 2:
        raise ValueError(
            f"linear_cross_entropy: input has shape {list(input.shape)} and linear_weight"
            f" {list(linear_weight.shape)}, expected [K] or [N, K] and [V, ..., K]"
        )
    classes, places = linear_weight.shape[0], linear_weight.shape[1:-1]
    logits_shape = (*input.shape[:-1], classes, *places)
    if target.shape == logits_shape and ignore_index is not None:
        raise ValueError(
            "linear_cross_entropy: ignore_index is given, but target has probabilities"
        )
    ignore_index = -100 if ignore_index is None else ignore_index
    if places or target.is_floating_point() or input.dtype not in (torch.float32, torch.bfloat16):
        flat = linear_weight.flatten(0, -2)
        logits = F.linear(input, flat, None if linear_bias is None else linear_bias.flatten())
        return ops.cross_entropy(
            logits.reshape(logits_shape), target, weight, ignore_index=ignore_index,
            reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip
    loss = ops.linear_cross_entropy(
        input,
        linear_weight,
        target,
        bias=linear_bias,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        class_weight=None if weight is None else weight.float(),
    )
    return loss if torch.is_autocast_enabled(input.device.type) else loss.to(input.dtype)
