"""What is trained: a model, its batches, their loss and how it is judged. `fit` takes any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .config import TrainConfig

if TYPE_CHECKING:
    from fusedlm.data.tokenizer import Tokenizer
    from fusedlm.models.io import Model


class BatchSource(Protocol):
    """Endless batches in an order of their own; the state says where it stands.

    `drawn` counts what `next` has handed out, in units of `Task.drawn_unit`. A source that can
    pass over a batch without making it has a method `skip` as well, for batches of other ranks.
    """

    drawn: int
    seed: int

    def next(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Task(ABC):
    """One kind of training. `models.load` must read what `models.io.write_model` writes of `model`.

    `evaluate` returns numbers by name, which go into metrics.jsonl; the model whose `objective` among
    them is best is kept in best/.
    """

    model: Model
    tokenizer: Tokenizer | None
    batches: BatchSource
    objective = "val_loss"
    higher_is_better = False
    loss_unit = "nats per token"
    drawn_unit = "batches"  # what batches.drawn counts

    def prepare(self, config: TrainConfig) -> None:
        """Sets the model up for `config`, before weights are restored and the first step."""
        self.model.compute_dtype = getattr(torch, config.precision)

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The mean loss of a batch, float32, with its graph."""

    @abstractmethod
    def tokens(self, batch: Any) -> int:
        """Tokens of a batch, padding left out: what speed is counted in."""

    def weight(self, batch: Any) -> float:
        """How many terms `loss` is the mean of: batches that are accumulated count by it."""
        return self.tokens(batch)

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """The model as it is now on data that is not trained on; "val_loss" among the numbers.

        Several ranks all call it; `parallel.share` and `parallel.collect` let them share the work.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the training data: a run goes on with the same alone."""

    def about_data(self) -> dict[str, Any]:
        """How much data there is and the like, by name, for the model card."""
        return {}

    def where(self, first: int, end: int) -> str:
        """The batches from `first` to before `end` of `batches.drawn`, for an error message."""
        return (
            f"{self.drawn_unit} {first} to {end - 1} of the data order of seed {self.batches.seed}"
        )

    def better(self, value: float, than: float) -> bool:
        """Whether `value` of the objective beats `than`."""
        return value > than if self.higher_is_better else value < than
