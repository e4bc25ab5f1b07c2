"""A second derivative is refused where somebody asks for it, and nowhere else.

The backward ops have no derivative of their own. Without a word autograd would take what they give for
constants, and a penalty on gradients would silently lose its own gradient. So the results of a
backward that itself is recorded (create_graph=True) hang on a node that raises.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class _Refuse(torch.autograd.Function):
    """(name, count, *results, *inputs) -> results, which depend on all inputs."""

    @staticmethod
    def forward(name: str, count: int, *tensors):
        return tuple(t if t is None else t.view_as(t) for t in tensors[:count])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            f"{ctx.name} has no second derivative; for one, compute this part with plain torch"
        )


def once_differentiable(name: str, backward: Callable) -> Callable:
    """`backward(ctx, *grads)` of the op `name`, for torch.library.register_autograd."""

    def guarded(ctx, *grads):
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            results = backward(ctx, *grads)
        inputs = [t for t in (*grads, *ctx.saved_tensors) if _may_need_gradient(t)]
        several = isinstance(results, tuple)
        results = results if several else (results,)
        if not any(t.requires_grad for t in inputs):
            return results if several else results[0]
        refusing = _Refuse.apply(name, len(results), *results, *inputs)
        return refusing if several else refusing[0]

    return guarded


def _may_need_gradient(t) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()
