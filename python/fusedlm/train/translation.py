"""Training an encoder-decoder to translate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.encoder_decoder import EncoderDecoder

from .config import TrainConfig
from .pair_batches import PairBatch, PairBatches, Rows, all_pairs, size
from .task import Task

Pair = tuple[str, str]
CHRF_PAIRS = 300  # translated after each evaluation, where chrF decides which model is best


class Translation(Task):
    """Pairs (source, target) in batches of about `config.batch` tokens.

    Pairs that are longer than the model's context are left out; `too_long` counts them. With
    `objective` "chrf" the best model is that of the best chrF of the first CHRF_PAIRS validation
    pairs, translated greedily, else that of the lowest validation loss. The training loss is
    smoothed (Szegedy et al. 2016), the validation loss is not.
    """

    def __init__(
        self, model: EncoderDecoder, tokenizer: Tokenizer, train: Sequence[Pair],
        validation: Sequence[Pair], config: TrainConfig, *, label_smoothing: float = 0.1,
        objective: str = "val_loss",
    ) -> None:  # fmt: skip
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"Translation: the tokenizer has {tokenizer.vocab_size} tokens, the model"
                f" {model.config.vocab_size}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Translation: label_smoothing is {label_smoothing}, expected 0 <= it < 1"
            )
        if objective not in ("val_loss", "chrf"):
            raise ValueError(f"Translation: objective is {objective!r}, expected val_loss or chrf")
        self.model, self.tokenizer, self.objective = model, tokenizer, objective
        self.higher_is_better = objective == "chrf"
        self.label_smoothing, self._tokens = label_smoothing, config.batch
        rows = self._encode("train", train)
        self._validation = self._encode("validation", validation)
        self._shown = list(validation)[:CHRF_PAIRS]
        self.too_long = len(train) + len(validation) - len(rows) - len(self._validation)
        self.batches = PairBatches(rows, config.batch, model.config.end_id, config.seed)

    def _encode(self, name: str, pairs: Sequence[Pair]) -> list[Rows]:
        sides = [self.tokenizer.encode_batch([pair[side] for pair in pairs]) for side in (0, 1)]
        context, most = self.model.config.context, self._tokens
        rows = [
            pair
            for pair in zip(*sides, strict=True)
            if max(map(len, pair)) < context and size(pair) <= most
        ]
        if not rows:
            raise ValueError(
                f"Translation: {name} has {len(pairs)} pairs, none of them within the context of"
                f" {context} tokens and a batch of {most}"
            )
        return rows

    def loss(self, batch: PairBatch) -> Tensor:
        return self.model(
            batch.source, batch.target, batch.targets, label_smoothing=self.label_smoothing
        )

    def tokens(self, batch: PairBatch) -> int:
        return batch.tokens

    def weight(self, batch: PairBatch) -> float:
        return len(batch.targets)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Nats per target token as "val_loss", and, where it decides, "chrf"."""
        was_training = self.model.training
        self.model.eval()
        total, count = 0.0, 0
        for batch in all_pairs(self._validation, self._tokens, self.model.config.end_id):
            loss = self.model(batch.source, batch.target, batch.targets)
            total += float(loss) * len(batch.targets)
            count += len(batch.targets)
        found = {"val_loss": total / count}
        if self.objective == "chrf":
            found["chrf"] = self._chrf()
        self.model.train(was_training)
        return found

    def _chrf(self) -> float:
        from fusedlm.generate.translate import translate

        from .translation_scores import chrf

        made = translate(self.model, self.tokenizer, [s for s, _ in self._shown], beam=1)
        return chrf([text or "" for text in made], [t for _, t in self._shown])

    def fingerprint(self) -> str:
        return f"{self.batches.fingerprint()}-{self.label_smoothing}"

    def where(self, first: int, end: int) -> str:
        return f"pairs {first} to {end - 1} of the data order of seed {self.batches.seed}"
