"""Global gradient norm and AdamW on many tensors (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ._support import core, define, widened

Number = TypeVar("Number", int, float)


def _dense(t: Tensor) -> Tensor:
    # The kernels see elements only; a view carries at most 5 dimensions.
    t = widened(t)
    return t.contiguous() if t.dim() <= 5 else t.contiguous().view(-1)


def _grad_norm(grads: list[Tensor]) -> Tensor:
    norm = grads[0].new_empty((), dtype=torch.float64)
    core.grad_norm([_dense(g) for g in grads], norm)
    return norm


def _grad_norm_fake(grads: list[Tensor]) -> Tensor:
    return grads[0].new_empty((), dtype=torch.float64)


def _step(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    lrs: list[float], weight_decays: list[float], steps: list[int], beta1: float, beta2: float,
    eps: float, clip_scale: float,
) -> None:  # fmt: skip
    written = (params, exp_avgs, exp_avg_sqs)
    dense = [[_dense(t) for t in tensors] for tensors in written]
    core.adamw_step(
        dense[0],
        [_dense(g) for g in grads],
        *dense[1:],
        lrs,
        weight_decays,
        steps,
        beta1,
        beta2,
        eps,
        clip_scale,
    )
    for tensors, copies in zip(written, dense, strict=True):
        for tensor, copy in zip(tensors, copies, strict=True):
            if tensor.data_ptr() != copy.data_ptr():
                tensor.copy_(copy.view(tensor.shape))
        torch.autograd.graph.increment_version(tensors)


def _step_fake(*_: object) -> None:
    return None


define("grad_norm(Tensor[] grads) -> Tensor", _grad_norm, _grad_norm_fake)
define(
    "adamw_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs,"
    " Tensor(c!)[] exp_avg_sqs, float[] lrs, float[] weight_decays, int[] steps, float beta1,"
    " float beta2, float eps, float clip_scale) -> ()",
    _step,
    _step_fake,
)


def grad_norm(grads: Sequence[Tensor]) -> Tensor:
    """sqrt of the sum of squares over all gradients, a float64 scalar tensor.

    grads float32, bfloat16 or float16, any shapes. Not finite exactly when a gradient is not; the same bits
    for any number of threads. Raises ValueError naming the gradient that does not fit.
    """
    if not grads:
        return torch.zeros((), dtype=torch.float64)
    norm: Tensor = torch.ops.fusedlm.grad_norm(list(grads))
    return norm


def _for_each(
    value: float | Sequence[float], kind: Callable[[float], Number], count: int
) -> list[Number]:
    return [kind(v) for v in value] if isinstance(value, Sequence) else [kind(value)] * count


def adamw_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    lrs: float | Sequence[float],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float | Sequence[float],
    step: int | Sequence[int],
    clip_scale: float = 1.0,
) -> None:
    """One AdamW step in place, with every gradient multiplied by `clip_scale` on the way.

    params, grads float32, bfloat16 or float16; exp_avgs, exp_avg_sqs float32; all shaped like the parameter.
    lrs, weight_decay and step (from 1) hold for all parameters or are given for each.
    Raises ValueError naming argument and index, before anything is written.
    """
    if not params:
        return
    count = len(params)
    torch.ops.fusedlm.adamw_step_(
        list(params),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        _for_each(lrs, float, count),
        _for_each(weight_decay, float, count),
        _for_each(step, int, count),
        float(betas[0]),
        float(betas[1]),
        float(eps),
        float(clip_scale),
    )
