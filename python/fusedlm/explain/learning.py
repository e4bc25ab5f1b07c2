"""Loss, gradients and steps of AdamW, with every number in between at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm.models.encoder_decoder import Source
from fusedlm.models.lora import has_lora

from .plain import Weights
from .record import Trace
from .tracing import Model, Tokens, as_tokens, trace

_CLIP_EPS = 1e-6  # as in fusedlm.optim and torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class AdamSettings:
    """As of `fusedlm.optim.AdamW`; weight_decay holds for matrices alone, as in training."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(
                    f"AdamSettings: {name} is {getattr(self, name)!r}, expected a number above 0"
                )


@dataclass(frozen=True)
class EntryStep:
    """One weight in one step; `update` is what is added to it, weight decay included."""

    before: float
    gradient: float
    m: float
    v: float
    m_hat: float
    v_hat: float
    update: float
    after: float


@dataclass
class Parameter:
    """A parameter and its gradient at the first step. `index` is the entry with the largest gradient,
    whose way through the steps is in `entry`."""

    name: str
    shape: list[int]
    norm: float
    gradient_norm: float
    values: list[float]  # the first ones, and their gradients
    gradients: list[float]
    index: tuple[int, ...]
    entry: list[EntryStep] = field(default_factory=list)


@dataclass(frozen=True)
class Learned:
    """`losses` before each step and after the last; `gradient_norms` and `clips` (the factor on all
    gradients) of each step; the `weights` that come out."""

    settings: AdamSettings
    losses: list[float]
    gradient_norms: list[float]
    clips: list[float]
    parameters: list[Parameter]
    weights: dict[str, Tensor]


def loss_of(model: Model, found: Trace, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the targets [B, T], or [B] of a classifier of sequences, or [B, 2], the
    first and the last token of an answer."""
    ignored = getattr(model.config, "ignore_index", -100)
    logits = found.known_logits.flatten(0, -2)
    return F.cross_entropy(logits, targets.reshape(-1), ignore_index=ignored)


def trainable(
    model: Model, dtype: torch.dtype = torch.float32, *, copy: bool = True
) -> dict[str, Tensor]:
    """The parameters, and gradients for those that are trained; `copy` lets these change."""
    if has_lora(model):
        raise ValueError("explain: the model has adapters; merge_lora(model) makes it a plain one")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("explain: all parameters are frozen, so there is nothing to learn")
    return {
        name: value.detach()
        .to(dtype, copy=copy and value.requires_grad)
        .requires_grad_(value.requires_grad)
        for name, value in model.named_parameters()
    }


def gradients_of(
    model: Model, tokens: Tokens, targets: Tensor, weights: Weights, *,
    types: Tokens | None = None, source: Source | None = None,
) -> tuple[Trace, Tensor, dict[str, Tensor]]:  # fmt: skip
    """(trace, loss, the gradient of every parameter that has one)."""
    found = trace(model, tokens, types=types, source=source, weights=weights)
    loss = loss_of(model, found, targets)
    wanted = {name: value for name, value in weights.items() if value.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    named = dict(zip(wanted, grads, strict=True))
    return found, loss.detach(), {name: grad for name, grad in named.items() if grad is not None}


def explain_step(
    model: Model, tokens: Tokens, targets: Tensor, settings: AdamSettings | None = None, *,
    types: Tokens | None = None, source: Source | None = None, steps: int = 1, numbers: int = 6,
    dtype: torch.dtype = torch.float32,
) -> Learned:  # fmt: skip
    """Lets a copy of the model learn `targets` from `tokens` for a few steps, and keeps the numbers.

    The model itself stays as it is. Equals loss.backward() and `fusedlm.optim.AdamW`'s step().
    """
    settings = settings or AdamSettings()
    if type(steps) is not int or steps < 1:
        raise ValueError(f"explain_step: steps is {steps!r}, expected an integer of at least 1")
    ids = as_tokens(model, tokens)
    weights = trainable(model, dtype)
    averages: dict[str, tuple[Tensor, Tensor]] = {}
    losses, norms, clips, parameters = [], [], [], []
    for step in range(1, steps + 1):
        _, loss, grads = gradients_of(model, ids, targets, weights, types=types, source=source)
        if step == 1:
            parameters = [_describe(n, weights[n].detach(), g, numbers) for n, g in grads.items()]
        norm = math.sqrt(sum(g.double().square().sum().item() for g in grads.values()))
        if not math.isfinite(norm):
            raise FloatingPointError(f"explain_step: the gradient norm is {norm} in step {step}")
        limit = settings.max_grad_norm
        clip = 1.0 if limit is None else min(1.0, limit / (norm + _CLIP_EPS))
        losses.append(loss.item())
        norms.append(norm)
        clips.append(clip)
        by_name = {parameter.name: parameter for parameter in parameters}
        with torch.no_grad():
            for name in list(grads):
                grad = grads.pop(name)  # is not needed again, and may be large
                entry = _adam(weights[name], grad * clip, averages, name, step, settings,
                              by_name[name].index)  # fmt: skip
                by_name[name].entry.append(entry)
    with torch.no_grad():
        found = trace(model, ids, types=types, source=source, weights=weights)
        losses.append(loss_of(model, found, targets).item())
    weights = {name: value.detach() for name, value in weights.items()}
    return Learned(settings, losses, norms, clips, parameters, weights)


def _adam(
    weight: Tensor, grad: Tensor, averages: dict[str, tuple[Tensor, Tensor]], name: str, step: int,
    settings: AdamSettings, index: tuple[int, ...],
) -> EntryStep:  # fmt: skip
    """One step of AdamW (Loshchilov & Hutter 2019) on `weight`, in place; the numbers of one entry."""
    if name not in averages:
        averages[name] = torch.zeros_like(grad), torch.zeros_like(grad)
    m, v = averages[name]
    beta1, beta2 = settings.betas
    m.mul_(beta1).add_(grad, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    update = m_hat / (v_hat.sqrt() + settings.eps)
    if weight.dim() > 1:
        update += settings.weight_decay * weight
    update *= -settings.lr
    before = weight[index].item()
    weight += update
    numbers = (t[index].item() for t in (grad, m, v, m_hat, v_hat, update, weight))
    return EntryStep(before, *numbers)


def _describe(name: str, weight: Tensor, grad: Tensor, numbers: int) -> Parameter:
    largest = int(grad.abs().argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(largest), grad.shape))
    row = index[:-1]  # the first numbers of the row where the gradient is largest
    return Parameter(
        name, list(weight.shape), weight.norm().item(), grad.norm().item(),
        weight[row][:numbers].tolist(), grad[row][:numbers].tolist(), index,
    )  # fmt: skip
