"""Derivatives that the ops do not have are refused where somebody asks for them, and nowhere else.

Without a word autograd would take what a backward op gives for constants, and a penalty on gradients
would silently lose its own gradient; forward mode would lose its tangents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

# torch's FunctionCtx, on which each op keeps attributes of its own.
Context: TypeAlias = Any
# An implementation, a fake or a backward; the schema says what it takes and returns.
Function: TypeAlias = Callable[..., Any]


class _Refuse(torch.autograd.Function):
    """(name, anchor, *results) -> results; whoever goes backward through them is told."""

    @staticmethod
    def forward(name: str, anchor: Tensor, *results: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(t if t is None else t.view_as(t) for t in results)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Context, *_: Tensor | None) -> NoReturn:
        raise RuntimeError(
            f"{ctx.name} has no second derivative; for one, compute this part with plain torch"
        )


def once_differentiable(name: str, backward: Function) -> Function:
    """`backward(ctx, *grads)` of the op `name`, for torch.library.register_autograd.

    Where the backward itself is recorded (create_graph=True) its results hang on a node that raises.
    """

    def guarded(ctx: Context, *grads: Tensor | None) -> Any:
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            results = backward(ctx, *grads)
        several = isinstance(results, tuple)
        # What the results depend on need not be among the saved tensors.
        anchor = torch.zeros((), device="cpu", requires_grad=True)
        refusing = _Refuse.apply(  # type: ignore[no-untyped-call]  # torch's has no types
            name, anchor, *(results if several else (results,))
        )
        return refusing if several else refusing[0]

    return guarded


def backward_mode_only(name: str, impl: Function) -> Function:
    """`impl` that refuses to run where tangents are carried along, which it would lose."""

    def checked(*args: Any) -> Any:
        if getattr(forward_ad, "_current_level", -1) >= 0:
            raise NotImplementedError(f"{name} has no forward-mode derivative (jvp)")
        return impl(*args)

    return checked
