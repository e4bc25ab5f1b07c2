"""One weight in two places: the embedding and the head of a model that ties them."""

from __future__ import annotations

import torch
from torch import Tensor

from ._support import Context


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Context, rows: Tensor | None, dense: Tensor | None) -> Tensor | None:
        if rows is None or dense is None:
            return dense if rows is None else rows
        return dense.add_(rows) if _is_ours_alone(dense) else dense + rows


def _is_ours_alone(gradient: Tensor) -> bool:
    """Nobody else reads this memory: with retain_graph=True the loss keeps its gradients."""
    storage = gradient.untyped_storage()  # a second owner beside the tensor
    return not torch.is_grad_enabled() and torch._C._storage_Use_Count(storage._cdata) == 2


def tied(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [V, C] twice: for the embedding (with sparse_grad=True) and for the head.

    The few rows that the embedding changes are added into the head's gradient where it lies;
    autograd itself would write a second gradient of the size of the vocabulary.
    """
    pair: tuple[Tensor, Tensor] = _Tied.apply(weight)  # type: ignore[no-untyped-call]  # torch's has no types
    return pair
