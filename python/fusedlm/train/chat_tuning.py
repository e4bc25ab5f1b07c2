"""Supervised fine-tuning of a decoder on conversations: the loss counts on answers alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.decoder import Decoder
from fusedlm.models.packed import Packed

from .config import TrainConfig
from .evaluation import mean_loss
from .length_batches import LengthBatches, Sequences, flat
from .task import Task

Batch = tuple[Packed, Tensor]


class ChatTuning(Task):
    """Batches of `config.batch` conversations, packed: none sees another, and no padding is computed."""

    model: Decoder
    batches: LengthBatches
    loss_unit = "nats per token of an answer"

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, train_data: Sequences, val_data: Sequences,
        config: TrainConfig,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer = model, tokenizer
        self.batches = LengthBatches(train_data, config.batch, config.seed)
        self._validation, self._batch = val_data, config.batch

    def prepare(self, config: TrainConfig) -> None:
        super().prepare(config)
        self.model.recompute = config.recompute

    def loss(self, batch: Batch) -> Tensor:
        return self.model.predict_packed(*batch)

    def tokens(self, batch: Batch) -> int:
        return len(batch[0].tokens)

    def weight(self, batch: Batch) -> int:
        return int((batch[1] != self.model.config.ignore_index).sum())

    def evaluate(self) -> dict[str, float]:
        """The mean loss of a token of the answers held out."""
        batches = self._validation_batches()
        return {"val_loss": mean_loss(self.model, batches, self.loss, self.weight)}

    def _validation_batches(self) -> Iterator[Batch]:
        rows, targets = self._validation.rows, self._validation.targets
        for first in range(0, len(rows), self._batch):
            chosen = slice(first, first + self._batch)
            yield Packed.of(rows[chosen]), torch.tensor(flat(targets[chosen]))

    def fingerprint(self) -> str:
        return self.batches.data.fingerprint()

    def about_data(self) -> dict[str, int]:
        return {
            "training_conversations": len(self.batches.data.rows),
            "validation_conversations": len(self._validation.rows),
        }
