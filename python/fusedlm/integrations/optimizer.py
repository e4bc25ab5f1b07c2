"""torch.optim.AdamW with our step: one pass over parameters, gradients and averages."""

from __future__ import annotations

import math
from typing import Any

import torch

from fusedlm import optim

_ABSENT = ("amsgrad", "maximize", "capturable", "differentiable")


class FusedAdamW(torch.optim.AdamW):
    """What a patched torch.optim.AdamW becomes; state and options stay torch's."""

    max_grad_norm: float | None = None
    last_grad_norm: float = math.nan
    _state_of = optim.AdamW._state_of

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                raise ValueError("patch: AdamW has a tensor as lr, expected a number")
        return optim.AdamW.step(self, closure)


def patch_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if type(optimizer) is FusedAdamW:
        return optimizer
    if type(optimizer) is not torch.optim.AdamW:
        raise TypeError(
            f"patch: optimizer is a {type(optimizer).__name__}, expected torch.optim.AdamW"
        )
    for group in optimizer.param_groups:
        asked = [name for name in _ABSENT if group.get(name)]
        if asked:
            raise ValueError(f"patch: AdamW has {asked[0]}=True, which the fused step lacks")
    if "step" in optimizer.__dict__:
        raise ValueError("patch: AdamW has a scheduler already, expected to be patched before that")
    optimizer.__class__ = FusedAdamW
    return optimizer


def unpatch_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    ours = type(optimizer) is FusedAdamW
    if ours:
        optimizer.__class__ = torch.optim.AdamW
    return optimizer
