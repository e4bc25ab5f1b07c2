"""Training a model to tell classes of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.encoder import Encoder
from fusedlm.models.packed import Packed
from fusedlm.models.texts import Classifier, class_names, over_batches

from .config import TrainConfig
from .length_batches import IGNORED, LengthBatches, Sequences, flat
from .task import Task

Batch = tuple[Packed, Tensor]


class Classification(Task):
    """Batches of `config.batch` texts of like length, packed; the model most often right is kept."""

    model: Classifier
    batches: LengthBatches
    objective, higher_is_better = "val_accuracy", True
    loss_unit = "nats per text"

    def __init__(
        self, model: Classifier, tokenizer: Tokenizer, train_data: Sequences, val_data: Sequences,
        config: TrainConfig, *, label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        for name, data in (("train_data", train_data), ("val_data", val_data)):
            self._check_targets(name, flat(data.targets), len(class_names(model)))
        self.model, self.tokenizer = model, tokenizer
        self.batches = LengthBatches(
            train_data, config.batch, config.seed, first_position=model.config.first_position
        )
        self.validation = val_data
        self._smoothing = label_smoothing

    def _check_targets(self, name: str, targets: list[int], classes: int) -> None:
        wrong = next((t for t in targets if not 0 <= t < classes and t != IGNORED), None)
        if wrong is not None:
            raise ValueError(
                f"{type(self).__name__}: {name} has the target {wrong}, expected 0 to {classes - 1}"
            )

    def loss(self, batch: Batch) -> Tensor:
        return self.model.classify_packed(*batch, label_smoothing=self._smoothing)

    def tokens(self, batch: Batch) -> int:
        return len(batch[0].tokens)

    def weight(self, batch: Batch) -> float:
        return int((batch[1] != IGNORED).sum())

    def evaluate(self) -> dict[str, float]:
        targets = torch.tensor(self.validation.targets)
        logits = over_batches(
            self.model, self.validation.rows, self.model.classify_packed,
            len(class_names(self.model)),
        )  # fmt: skip
        right = (logits.argmax(1) == targets).float().mean().item()
        loss = torch.nn.functional.cross_entropy(logits, targets).item()
        return {"val_loss": loss, "val_accuracy": right}

    def fingerprint(self) -> str:
        return f"{self.batches.data.fingerprint()}-{self._smoothing}"

    def about_data(self) -> dict[str, int]:
        return {
            "training_texts": len(self.batches.data.rows),
            "validation_texts": len(self.validation.rows),
        }


def freeze(model: Classifier, layers: int) -> None:
    """No gradients for the embeddings and the lowest `layers` blocks, and no dropout in these blocks.

    What is learned lies above. Raises ValueError where there are fewer blocks.
    """
    body = model if isinstance(model, Encoder) else model.decoder
    if not 0 <= layers <= len(body.blocks):
        raise ValueError(f"freeze: layers is {layers}, expected 0 to {len(body.blocks)}")
    module: Any  # of any class: where there is dropout, it is a number
    for block in body.blocks[:layers]:
        for module in block.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.0
    above = [*body.blocks[layers:], model.classifier]
    above += [getattr(body, name, None) for name in ("pooler", "final_norm", "ngrams")]
    trained = {id(p) for module in above if module is not None for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
