"""Norms with the signatures of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm import ops

_DTYPES = (torch.float32, torch.bfloat16)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.group_norm` on `ops.group_norm`.

    input [B, C, ...] float32 or bfloat16 (others go to torch's own function), weight and bias [C] in either
    dtype. Raises ValueError naming the argument that does not fit.
    """
    if input.dtype not in _DTYPES:
        return F.group_norm(input, num_groups, weight, bias, eps)
    if weight is not None and bias is not None:
        bias = bias.to(weight.dtype)
    return ops.group_norm(input, num_groups, weight, bias, eps)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.layer_norm` on `ops.layer_norm`.

    input [..., *normalized_shape] float32 or bfloat16 (others go to torch's own function), weight and
    bias normalized_shape in either dtype. Raises ValueError naming the argument that does not fit.
    """
    if input.dtype not in _DTYPES:
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    x, weight, bias = _rows("layer_norm", input, normalized_shape, weight, bias)
    return ops.layer_norm(x, weight, bias, eps).reshape(input.shape)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`torch.nn.functional.rms_norm` on `ops.rms_norm`; eps None is that of float32, in which sums are.

    Arguments and errors are those of `layer_norm`.
    """
    if input.dtype not in _DTYPES:
        return F.rms_norm(input, normalized_shape, weight, eps)
    x, weight, _ = _rows("rms_norm", input, normalized_shape, weight, None)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return ops.rms_norm(x, weight, eps).reshape(input.shape)


def _rows(
    op: str,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The input as [..., C], weight (ones where there is none) and bias as [C]."""
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ValueError(
            f"{op}: normalized_shape is {list(shape)}, expected the last dimensions of input"
            f" {list(input.shape)}"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and tuple(parameter.shape) != shape:
            raise ValueError(
                f"{op}: {name} has shape {list(parameter.shape)}, expected normalized_shape"
                f" {list(shape)}"
            )
    if weight is None:
        weight = input.new_ones(shape)
    if bias is not None and bias.dtype != weight.dtype:
        bias = bias.to(weight.dtype)
    if len(shape) > 1:
        input = input.flatten(-len(shape))
        weight, bias = weight.flatten(), None if bias is None else bias.flatten()
    return input, weight, bias
