"""Training a model to tag words: names, places and the like."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fusedlm.data.tagged import Tagged
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.evaluation.entities import entity_report
from fusedlm.models.tagging import Piece, encode_words, joined, word_logits
from fusedlm.models.texts import Classifier, class_names

from .classification import Classification
from .config import TrainConfig
from .length_batches import IGNORED, Sequences, flat


class TokenClassification(Classification):
    """Batches of sentences; the first token of a word bears its tag. The best F1 of entities is kept."""

    objective = "val_f1"
    loss_unit = "nats per word"

    def __init__(
        self, model: Classifier, tokenizer: Tokenizer, train_data: Tagged, val_data: Tagged,
        config: TrainConfig, *, label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        longest = model.config.read_tokens

        def encode(data: Tagged) -> list[Piece]:
            return encode_words(tokenizer, data.sentences, longest)

        self._pieces, self._held = encode(val_data), val_data
        self._sentences = len(train_data)
        labels = class_names(model)
        super().__init__(
            model, tokenizer, with_targets(encode(train_data), train_data.tags, labels),
            with_targets(self._pieces, val_data.tags, labels), config,
            label_smoothing=label_smoothing,
        )  # fmt: skip

    def about_data(self) -> dict[str, int]:
        return {"training_sentences": self._sentences, "validation_sentences": len(self._held)}

    def evaluate(self) -> dict[str, float]:
        logits = word_logits(self.model, self._pieces)
        targets = [target for target in flat(self.validation.targets) if target != IGNORED]
        kept = [
            found[torch.tensor(piece.firsts) >= 0]
            for piece, found in zip(self._pieces, logits, strict=True)
        ]
        loss = torch.nn.functional.cross_entropy(torch.cat(kept), torch.tensor(targets)).item()
        predicted = joined(self.model, self._pieces, logits, self._held.sentences)
        report = entity_report(self._held.tags, predicted)
        return {"val_loss": loss, "val_f1": report["f1"], "val_accuracy": report["tag_accuracy"]}


def with_targets(
    pieces: Sequence[Piece], tags: Sequence[Sequence[str]], labels: Sequence[str]
) -> Sequences:
    """Tokens with the class of the word that each begins; other tokens count for nothing.

    Pieces in which no word begins are left out.
    """
    number = {label: i for i, label in enumerate(labels)}
    rows, targets = [], []
    for piece in pieces:
        row = [IGNORED] * len(piece.ids)
        for place, token in enumerate(piece.firsts, piece.first_word):
            if token >= 0:
                row[token] = number[tags[piece.sentence][place]]
        if any(target != IGNORED for target in row):
            rows.append(piece.ids)
            targets.append(row)
    return Sequences(rows, targets)
