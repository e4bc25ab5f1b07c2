"""Training a model to find answers in texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedlm.data.questions import Question
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.evaluation.answers import answer_report
from fusedlm.models.encoder import Encoder
from fusedlm.models.packed import Packed
from fusedlm.models.spans import (
    LONGEST,
    Window,
    answers_in,
    encode_windows,
    margin,
    token_types,
    window_logits,
)

from .classification import Classification
from .config import TrainConfig
from .length_batches import Sequences

Batch = tuple[Packed, Tensor]


class QuestionAnswering(Classification):
    """Batches of windows: a question and a part of its text of at most `longest` tokens together.

    What is learned is the first and the last token of the first answer, or twice the window's first
    token where the window does not hold it (Devlin et al. 2019, arXiv:1810.04805). The best F1 is kept.
    """

    model: Encoder
    objective = "val_f1"
    loss_unit = "nats per end of an answer"

    def __init__(
        self, model: Encoder, tokenizer: Tokenizer, train_data: Sequence[Question],
        val_data: Sequence[Question], config: TrainConfig, *, longest: int = LONGEST,
    ) -> None:  # fmt: skip

        def encode(data: Sequence[Question]) -> list[Window]:
            return encode_windows(model, tokenizer, pairs_of(data), longest=longest)

        self._held, self._windows = list(val_data), encode(val_data)
        self._questions = len(train_data)
        super().__init__(
            model, tokenizer, with_spans(model, encode(train_data), train_data),
            with_spans(model, self._windows, val_data), config,
        )  # fmt: skip

    def _check_targets(self, name: str, targets: list[int], classes: int) -> None:
        """They are places in windows, as `with_spans` finds them."""

    def loss(self, batch: Batch) -> Tensor:
        return self.model.classify_packed(*batch)

    def weight(self, batch: Batch) -> float:
        return len(batch[0].lengths)

    def about_data(self) -> dict[str, int]:
        return {
            "training_questions": self._questions, "validation_questions": len(self._held),
            "training_windows": len(self.batches.data.rows),
            "validation_windows": len(self._windows),
        }  # fmt: skip

    def evaluate(self) -> dict[str, float]:
        """The loss, and exact match and F1 in per cent; "val_threshold" is the best one here."""
        logits = window_logits(self.model, self._windows)
        losses = [
            torch.nn.functional.cross_entropy(scores.T, torch.tensor(target))
            for scores, target in zip(logits, self.validation.targets, strict=True)
        ]
        found = answers_in(pairs_of(self._held), self._windows, logits)
        report = answer_report(
            self._held, [each[0].text for each in found], [margin(each) for each in found]
        )
        return {
            "val_loss": torch.stack(losses).mean().item(), "val_f1": report["f1"],
            "val_exact": report["exact"], "val_threshold": report["best_threshold"],
        }  # fmt: skip


def pairs_of(questions: Sequence[Question]) -> list[tuple[str, str]]:
    return [(each.question, each.context) for each in questions]


def with_spans(
    model: Encoder, windows: Sequence[Window], questions: Sequence[Question]
) -> Sequences:
    """Windows with the first and last token of the first answer, or 0 and 0 where it is not all here."""
    targets = []
    for window in windows:
        place = None
        for text, start in questions[window.question].answers[:1]:
            place = window.tokens_of(start, start + len(text))
        targets.append(list(place or (0, 0)))
    return Sequences([each.ids for each in windows], targets, token_types(model, windows))
