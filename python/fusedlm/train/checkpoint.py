"""Checkpoints: a model folder and, beside its files, what resuming needs.

    last/  config.json model.safetensors tokenizer.json training.json optimizer.safetensors state.json
    best/  the model folder alone

A run that trains adapters has them in adapter/ of both, in PEFT's format.

A checkpoint is written whole or not at all: the folder takes its place in one step. Nothing is
pickled. optimizer.safetensors holds "<parameter>.exp_avg" and "<parameter>.exp_avg_sq".

It says nothing of the ranks that wrote it. Where each holds a part of the model, all call the functions
that write, at the same step; rank 0 writes, tensor by tensor.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fusedlm._sharded import part_like, rank, ranks, sharded_like
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError
from fusedlm.models.decoder import Decoder
from fusedlm.models.files import read_json
from fusedlm.models.folder import atomic_folder
from fusedlm.models.io import Model, load, write_model
from fusedlm.models.lora import adapted, has_lora, load_lora, write_lora
from fusedlm.models.weights import Tensors, write_tensors
from fusedlm.nn.adapter import Adapter
from fusedlm.optim import AdamW

from .config import TrainConfig
from .parallel import gets_parts
from .record import Record
from .task import BatchSource

ADAPTER = "adapter"
# What may differ between the run that wrote a checkpoint and the one that goes on from it.
FREE_FIELDS = (
    "steps", "eval_every", "eval_batches", "save_every", "log_every", "recompute", "parallel",
)  # fmt: skip


@dataclass
class Progress:
    """Where a run stands after `step` steps."""

    step: int = 0
    best: dict[str, float] | None = None  # the numbers of the best evaluation so far
    best_step: int = 0
    tokens: int = 0
    record: Record | None = None  # for training.json


def save_checkpoint(
    path: Path,
    model: Model,
    tokenizer: Tokenizer | None,
    optimizer: AdamW,
    batches: BatchSource,
    config: TrainConfig,
    progress: Progress,
    data_fingerprint: str,
) -> None:
    """Writes `path` anew. Raises OSError naming it; the checkpoint before stays as it was."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                tensors[f"{name}.{key}"] = sharded_like(parameter, state[key])
    state = {
        "step": progress.step,
        "best": progress.best,
        "best_step": progress.best_step,
        "tokens": progress.tokens,
        "batches": batches.state_dict(),
        "data": data_fingerprint,
        "config": config.to_dict(),
    }
    with _folder(path) as folder:
        write_model(folder, model, tokenizer, training=_training(config, progress))
        _write_adapters(folder, model)
        write_tensors(folder / "optimizer.safetensors", tensors)
        (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")


def save_best(
    path: Path,
    model: Model,
    tokenizer: Tokenizer | None,
    config: TrainConfig,
    progress: Progress,
) -> None:
    """A model to use: adapters are in its weights, and beside them for whoever has the base."""
    merged = has_lora(model)
    with _folder(path) as folder:
        write_model(folder, model, tokenizer, training=_training(config, progress), merged=merged)
        _write_adapters(folder, model)


def _write_adapters(folder: Path, model: Model) -> None:
    if (decoder := adapted(model)) is not None:
        (folder / ADAPTER).mkdir()
        write_lora(folder / ADAPTER, decoder)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Where to write; of a rank other than 0 nothing stays."""
    if rank() == 0:
        with _whole(path) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


class _whole:
    """atomic_folder, whose failures name the checkpoint and what is left on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = atomic_folder(path)

    def __enter__(self) -> Path:
        try:
            return self._folder.__enter__()
        except OSError as error:
            raise self._explained(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            self._folder.__exit__(kind, error, trace)
        except (OSError, SafetensorError) as failure:
            raise self._explained(failure) from failure
        if isinstance(error, (OSError, SafetensorError)):
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> OSError:
        parent = self._path.parent
        free = shutil.disk_usage(parent).free if parent.exists() else 0
        before = "the one before is untouched" if self._path.exists() else "there was none before"
        number = error.errno if isinstance(error, OSError) else None
        return OSError(
            number,
            f"checkpoint {self._path} was not written ({error}); {before};"
            f" {free / 2**20:.0f} MiB are free there",
        )


def _training(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "best": progress.best,
        "best_step": progress.best_step,
        **config.to_dict(),
        **(progress.record.to_dict() if progress.record else {}),
    }


@dataclass
class Checkpoint:
    """A checkpoint as read from its folder."""

    path: Path
    model: Model
    tokenizer: Tokenizer | None
    config: TrainConfig
    progress: Progress
    state: dict[str, Any]
    tensors: Tensors  # of the optimizer

    def restore(self, model: Model, batches: BatchSource, data: str) -> None:
        """Puts weights and data position into the objects of a new run, before ranks part the model.

        Raises ValueError where model or data are not those of the checkpoint.
        """
        if self.model.config != model.config:
            if type(self.model) is not type(model):
                raise ValueError(
                    f"{self.path}: the checkpoint's model is a {type(self.model).__name__}, this"
                    f" one is a {type(model).__name__}"
                )
            ours, theirs = model.config.to_dict(), self.model.config.to_dict()
            name = next(n for n in ours if ours[n] != theirs[n])
            raise ValueError(
                f"{self.path}: the checkpoint's model has {name} {theirs[name]!r}, this one"
                f" {ours[name]!r}"
            )
        ours, theirs = _adapters_of(model), _adapters_of(self.model)
        if ours != theirs:
            name = next(n for n in ours if ours[n] != theirs[n])
            raise ValueError(
                f"{self.path}: the checkpoint's model has adapters of {name} {theirs[name]!r}, this"
                f" one of {ours[name]!r}"
            )
        if self.state["data"] != data:
            raise ValueError(
                f"{self.path}: the checkpoint was trained on other data; give the same text and"
                " tokenizer, or start a new run in another folder"
            )
        if not any(p.is_meta for p in self.model.parameters()):
            model.load_state_dict(self.model.state_dict())
        try:
            batches.load_state_dict(self.state["batches"])
        except (KeyError, TypeError) as error:
            raise CorruptFileError(
                self.path / "state.json", f"batches lacks what the data needs ({error!r})"
            ) from error

    def restore_optimizer(self, model: Model, optimizer: AdamW) -> None:
        """Gives the optimizer of `model`, or of this rank's part of it, the state of each parameter."""
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parts = {
                key: part_like(parameter, self.tensors.read(f"{name}.{key}", parameter.shape))
                for key in ("exp_avg", "exp_avg_sq")
            }
            optimizer.state[parameter] = {"step": torch.tensor(float(self.progress.step)), **parts}


def load_checkpoint(path: str | Path, parallel: str | None = None) -> Checkpoint:
    """Reads a `last` folder. Raises FileNotFoundError or CorruptFileError naming the file.

    `parallel`, by default the checkpoint's own, is how several ranks will go on: one that will get its
    part of the model from rank 0 reads no weights.
    """
    folder = Path(path)
    state = read_json(folder / "state.json")
    try:
        progress = _progress(state)
        config = TrainConfig.from_dict(state["config"])
        if not isinstance(state["data"], str) or not isinstance(state["batches"], dict):
            raise TypeError("data or batches")
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(
            folder / "state.json", f"bad or missing entry ({error!r})"
        ) from error
    model, tokenizer = load(folder, weights=ranks() == 1)
    if ranks() > 1 and not gets_parts(model, parallel or config.parallel):
        model, tokenizer = load(folder)
    if (folder / ADAPTER).is_dir():
        if not isinstance(model, Decoder):
            kind = type(model).__name__
            raise CorruptFileError(folder / ADAPTER, f"holds adapters, and the model is a {kind}")
        load_lora(model, folder / ADAPTER)
    tensors = Tensors(folder / "optimizer.safetensors")
    return Checkpoint(folder, model, tokenizer, config, progress, state, tensors)


def _progress(state: dict[str, Any]) -> Progress:
    best = state["best"]
    if best is not None and not (
        isinstance(best, dict)
        and "val_loss" in best
        and all(isinstance(number, (int, float)) for number in best.values())
    ):
        raise TypeError(f"best is {best!r}")
    for name in ("step", "best_step", "tokens"):
        if type(state[name]) is not int or not 0 <= state[name] < 2**63:
            raise TypeError(f"{name} is {state[name]!r}")
    return Progress(state["step"], best, state["best_step"], state["tokens"])


def _adapters_of(model: Model) -> dict[str, Any]:
    """What says which adapters a model has: two with the same compute the same."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, Adapter)}
    first = next(iter(found.values()), None)
    return {
        "rank": first and first.rank, "alpha": first and first.alpha,
        "dropout": first and first.dropout,
        "targets": sorted(f"{name}.{target}" for name, m in found.items() for target in m.b),
    }  # fmt: skip


def check_same_settings(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Raises ValueError naming a setting that would make the run another one."""
    saved, given = checkpoint.config.to_dict(), config.to_dict()
    for name, value in saved.items():
        if name not in FREE_FIELDS and value != given[name]:
            raise ValueError(
                f"{checkpoint.path}: the checkpoint was trained with {name} {value!r}, not"
                f" {given[name]!r}; resume with the same settings, or start a new run"
            )
