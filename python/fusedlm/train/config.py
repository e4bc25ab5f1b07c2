"""Settings of a training run: one frozen dataclass that checks itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fusedlm.models.fields import CheckedFields, is_number

PRECISIONS = ("float32", "bfloat16")
PARALLEL = ("auto", "ddp", "fsdp")


@dataclass(frozen=True)
class TrainConfig(CheckedFields):
    """How to train; the model has its own `ModelConfig`.

    A step reads batch x accumulate windows of `context` tokens (None: the model's). The learning
    rate rises linearly over `warmup` steps to `lr` and falls along a cosine to lr * min_lr_ratio at
    `steps`. weight_decay holds for matrices, not for norms and biases. Gradients are clipped to a
    global norm of `clip` (None: not). precision "bfloat16" computes activations in bfloat16; the
    weights, their gradients and the optimizer stay float32. recompute trades time for memory and
    changes no result. eval_batches None evaluates on all of the validation data. On several ranks
    (torchrun) each takes accumulate / ranks batches of a step, and `parallel` says whether each holds all
    of the model, "ddp", or a part, "fsdp". Raises ValueError naming the field that does not fit.
    """

    steps: int = 1000
    batch: int = 16
    context: int | None = None
    accumulate: int = 1
    lr: float = 1e-3
    min_lr_ratio: float = 0.1
    warmup: int = 50
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0
    precision: str = "float32"
    seed: int = 0
    eval_every: int = 200
    eval_batches: int | None = None
    save_every: int = 200
    log_every: int = 1
    recompute: bool = False
    parallel: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "eval_every", "save_every", "log_every"):
            self._count(name, 1)
        for name in ("warmup", "seed"):
            self._count(name, 0)
        for name in ("context", "eval_batches"):
            if getattr(self, name) is not None:
                self._count(name, 1)
        self._positive("lr")
        self._positive("eps")
        if not self._number("weight_decay") or self.weight_decay < 0:
            self._bad("weight_decay", "a number of at least 0")
        if not self._number("min_lr_ratio") or not 0 <= self.min_lr_ratio <= 1:
            self._bad("min_lr_ratio", "a number from 0 to 1")
        if self.clip is not None and (not self._number("clip") or not self.clip > 0):
            self._bad("clip", "a number above 0 or None")
        self._choice("precision", PRECISIONS)
        self._choice("parallel", PARALLEL)
        if type(self.recompute) is not bool:
            self._bad("recompute", "True or False")
        betas = self.betas
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            self._bad("betas", "two numbers in [0, 1)")
        if not all(is_number(b) and 0 <= b < 1 for b in betas):
            self._bad("betas", "two numbers in [0, 1)")
        object.__setattr__(self, "betas", tuple(float(b) for b in betas))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return {**asdict(self), "betas": list(self.betas)}
