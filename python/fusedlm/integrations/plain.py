"""Which modules may be looked through: a fused forward reads their parameters and never calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.bfloat16)
_TENSORS = (nn.Parameter, Tensor)
# A layer's own forward.
Forward: TypeAlias = Callable[..., Tensor]


def is_plain(kind: type, *modules: nn.Module) -> bool:
    """Whether each is just a `kind` with ordinary parameters that our kernels take.

    An adapter or a quantised layer in its place, a hook on it or a sharded weight must run its own
    way, so the layer around it keeps its own forward then.
    """
    return all(type(m) is kind and not _hooked(m) and takes(m.weight) for m in modules)


def takes(parameter: Any) -> TypeGuard[Tensor]:
    return type(parameter) in _TENSORS and parameter.dtype in FLOATS


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def same_dtype(*tensors: Tensor) -> bool:
    """Whether a fused addition keeps what an unfused one would give: no operand is rounded first."""
    autocast = torch.is_autocast_enabled(tensors[0].device.type)
    return not autocast and all(t.dtype == tensors[0].dtype for t in tensors)
