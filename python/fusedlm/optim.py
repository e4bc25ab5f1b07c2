"""AdamW with clipping by the global gradient norm, in two passes over memory."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from fusedlm._sharded import layout, local, sum_of_parts
from fusedlm.ops.adamw import adamw_step_, grad_norm

__all__ = ["AdamW"]

# What clip_grad_norm_ adds to the norm, so that both clip by the same factor.
_CLIP_EPS = 1e-6
# A parameter with its group and its gradient.
_Work: TypeAlias = tuple[dict[str, Any], Tensor, Tensor]


class _Stepped(Protocol):
    """What `AdamW.step` needs of the optimizer, which may be torch's own with our step."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, Any]
    max_grad_norm: float | None
    last_grad_norm: float

    def _state_of(self, param: Tensor) -> dict[str, Tensor]: ...


class AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019); step() clips by the global norm and updates in one pass.

    Equals clip_grad_norm_(parameters, max_grad_norm) followed by torch.optim.AdamW, for float32 and
    bfloat16 parameters; the gradients themselves stay as they are. `max_grad_norm` None: no
    clipping. `last_grad_norm` holds the norm (before clipping) of the last step. A gradient that is
    not finite makes step() raise FloatingPointError before anything is changed.

    Of parameters that are DTensors (FSDP2, tensor parallel) each rank updates its part, with the norm
    over all of them; the averages in `state` are plain tensors, shaped like the part.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        max_grad_norm: float | None = None,
    ) -> None:
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"AdamW: max_grad_norm is {max_grad_norm}, expected above 0 or None")
        self.max_grad_norm = max_grad_norm
        self.last_grad_norm = math.nan
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def __getstate__(self) -> dict[str, Any]:
        """torch's optimizers pickle and copy their state and groups alone."""
        own = {"max_grad_norm": self.max_grad_norm, "last_grad_norm": self.last_grad_norm}
        return {**super().__getstate__(), **own}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own. Raises ValueError naming the option that does not fit."""
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` returned; the averages come back bit for bit."""
        super().load_state_dict(state_dict)
        # torch casts the state to the parameter's dtype; the averages of a bfloat16 parameter are
        # float32 and must come back bit for bit.
        saved_ids = chain.from_iterable(g["params"] for g in state_dict["param_groups"])
        params = chain.from_iterable(g["params"] for g in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id)
            if saved is None:
                continue
            state = self.state[param]
            state["step"] = torch.tensor(float(saved["step"]), device="cpu")
            for name in ("exp_avg", "exp_avg_sq"):
                # A copy: the two optimizers must not share their averages.
                state[name] = saved[name].to(device=param.device, dtype=torch.float32, copy=True)

    @torch.no_grad()
    def step(self: _Stepped, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters with a gradient; returns what `closure` returns, if it is given.

        Raises FloatingPointError where the norm of the gradients is not finite, and changes nothing then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work: list[_Work] = [
            (group, param, param.grad)
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None
        ]
        for _, param, grad in work:
            _check_gradient(param, grad)
        norm = _global_norm([grad for *_, grad in work])
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"AdamW: the gradient norm is {norm}; parameters and state were left unchanged"
            )
        self.last_grad_norm = norm
        clip_scale = 1.0
        if self.max_grad_norm is not None:
            clip_scale = min(1.0, self.max_grad_norm / (norm + _CLIP_EPS))
        # One call for all groups that share betas and eps, which is all of them as a rule.
        shared: dict[tuple[float, float, float], list[_Work]] = {}
        for group, param, grad in work:
            beta1, beta2 = group["betas"]
            shared.setdefault((float(beta1), float(beta2), group["eps"]), []).append(
                (group, param, grad)
            )
        for (beta1, beta2, eps), members in shared.items():
            states = [self._state_of(param) for _, param, _ in members]
            params = [local(param) for _, param, _ in members]
            steps = [int(state["step"]) + 1 for state in states]
            adamw_step_(
                params,
                [local(grad) for *_, grad in members],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [float(group["lr"]) for group, *_ in members],
                (beta1, beta2),
                eps,
                [float(group["weight_decay"]) for group, *_ in members],
                steps,
                clip_scale,
            )
            for state in states:
                state["step"] += 1
        return loss

    def _state_of(self: _Stepped, param: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0, device="cpu")
            shape = local(param).shape
            state["exp_avg"] = torch.zeros(shape, dtype=torch.float32, device=param.device)
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
        return state


def _global_norm(grads: list[Tensor]) -> float:
    """Over all ranks, and the same on each; not finite where a gradient of any is not."""
    alike: dict[object, list[Tensor]] = {}
    for grad in grads:
        alike.setdefault(layout(grad), []).append(grad)
    if alike.keys() <= {None}:
        return grad_norm(grads).item()
    squares = [sum_of_parts(grad_norm([*map(local, g)]) ** 2, g[0]) for g in alike.values()]
    return math.sqrt(sum(square.item() for square in squares))


def _check_options(options: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not 0.0 <= float(options[name]) < math.inf:
            raise ValueError(f"AdamW: {name} is {options[name]}, expected a finite value >= 0")
    betas = options["betas"]
    if len(betas) != 2 or not all(0.0 <= float(beta) < 1.0 for beta in betas):
        raise ValueError(f"AdamW: betas is {betas}, expected two values in [0, 1)")


def _check_gradient(param: Tensor, grad: Tensor) -> None:
    where = f"AdamW: the gradient of a parameter of shape {list(param.shape)}"
    if grad.layout is not torch.strided:
        raise NotImplementedError(f"{where} is sparse ({grad.layout}), expected a dense one")
    if layout(grad) != layout(param):
        raise ValueError(f"{where} is cut as {layout(grad)}, expected {layout(param)} as it is")
    for what, tensor in (("gradient", grad), ("parameter", param)):
        known = tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
        if not known or tensor.device.type not in ("cpu", "cuda"):
            raise NotImplementedError(
                f"{where}: {what} is {tensor.dtype} on {tensor.device},"
                " expected torch.float32, torch.bfloat16 or torch.float16 on cpu or cuda"
            )
