"""Training a decoder to predict the next token of packed text."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fusedlm.data.batches import Batches, validation_batches
from fusedlm.data.packed import PackedData
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.decoder import Decoder

from .config import TrainConfig
from .evaluation import evaluate
from .loop import TrainResult, fit
from .task import Task

Batch = tuple[Tensor, Tensor]


class LanguageModelling(Task):
    """Windows of `config.context` tokens (None: the model's), each token predicting the next."""

    model: Decoder
    batches: Batches
    drawn_unit = "windows"

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer | None, train_data: PackedData,
        val_data: PackedData, config: TrainConfig,
    ) -> None:  # fmt: skip
        context = config.context or model.config.context
        if context > model.config.context:
            raise ValueError(
                f"train: context is {context}, expected at most the model's {model.config.context}"
            )
        if train_data.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"train: train_data has a vocabulary of {train_data.vocab_size}, the model one of"
                f" {model.config.vocab_size}"
            )
        if val_data.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"train: val_data has a vocabulary of {val_data.vocab_size}, the model one of"
                f" {model.config.vocab_size}"
            )
        if len(val_data) < 2:
            raise ValueError(f"train: val_data has {len(val_data)} tokens, expected at least 2")
        self.model, self.tokenizer = model, tokenizer
        self.batches = Batches(train_data, config.batch, context, config.seed)
        self._validation = (val_data, config.batch, context, config.eval_batches)

    def prepare(self, config: TrainConfig) -> None:
        super().prepare(config)
        # One backward a step: gradients are rounded once, as autocast's are. Several add up in float32.
        once = config.accumulate == 1
        self.model.grad_dtype = self.model.compute_dtype if once else torch.float32
        self.model.recompute = config.recompute

    def loss(self, batch: Batch) -> Tensor:
        device = next(self.model.parameters()).device
        loss: Tensor = self.model(*(t.to(device) for t in batch))
        return loss

    def tokens(self, batch: Batch) -> int:
        return batch[0].numel()

    def weight(self, batch: Batch) -> float:
        return int((batch[1] != self.model.config.ignore_index).sum())

    def evaluate(self) -> dict[str, float]:
        return {"val_loss": evaluate(self.model, validation_batches(*self._validation))}

    def fingerprint(self) -> str:
        return self.batches.data.fingerprint()

    def about_data(self) -> dict[str, int]:
        return {
            "training_tokens": len(self.batches.data),
            "validation_tokens": len(self._validation[0]),
        }


def train(
    model: Decoder,
    tokenizer: Tokenizer | None,
    train_data: PackedData,
    val_data: PackedData,
    config: TrainConfig,
    out_dir: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    baselines: dict[str, float] | None = None,
) -> TrainResult:
    """Trains `model` in place on text; `fit` says what is written into `out_dir` and raised.

    Raises ValueError too for data too short for the context or of a larger vocabulary.
    """
    task = LanguageModelling(model, tokenizer, train_data, val_data, config)
    return fit(task, config, out_dir, resume=resume, progress=progress, baselines=baselines)
