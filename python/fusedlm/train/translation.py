"""Training an encoder-decoder to translate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fusedlm.data.labelled import Skipped
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.data.translation_memory import TranslationMemory
from fusedlm.generate.translate import examples_for, translate
from fusedlm.models.encoder_decoder import EncoderDecoder

from .config import TrainConfig
from .evaluation import mean_loss
from .pair_batches import PairBatch, PairBatches, Rows, all_pairs, size
from .task import Task
from .translation_scores import chrf, sacrebleu

Pair = tuple[str, str]
CHRF_PAIRS = 300  # translated after each evaluation, where chrF decides which model is best
NOISED = 0.1  # of them are trained on with their own target, noised, as the example
ALONE = 0.15  # of the sources of a model that reads examples are trained on without


class Translation(Task):
    """Pairs (source, target) in batches of about `config.batch` tokens.

    For a model that reads examples, those of a pair are what a translation memory of the training
    pairs has for its source, itself left out; a share ALONE goes without, so that the model learns
    to do without, too. Pairs with a side beyond the model's context, or larger than a batch, are
    left out; `skipped` counts them. With `objective` "chrf" the best model is that of the best chrF
    of the first CHRF_PAIRS validation pairs, translated greedily, else that of the lowest
    validation loss. The training loss is smoothed (Szegedy et al. 2016), the validation loss is not.
    progress(n) is called when n more pairs have their examples.
    """

    model: EncoderDecoder
    tokenizer: Tokenizer
    batches: PairBatches
    drawn_unit = "pairs"

    def __init__(
        self, model: EncoderDecoder, tokenizer: Tokenizer, train: Sequence[Pair],
        validation: Sequence[Pair], config: TrainConfig, *, label_smoothing: float = 0.1,
        objective: str = "val_loss", progress: Callable[[int], None] | None = None,
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
        if objective == "chrf":
            sacrebleu()  # where it is missing, that is said now
        self.model, self.tokenizer, self.objective = model, tokenizer, objective
        self.higher_is_better = objective == "chrf"
        self.label_smoothing, self._tokens = label_smoothing, config.batch
        self._memory = TranslationMemory(train) if model.config.examples and train else None
        self.skipped = Skipped()
        rows = self._encode("train", train, progress)
        self._validation = self._encode("validation", validation, progress)
        self._shown = list(validation)[:CHRF_PAIRS]
        shares = (ALONE, NOISED) if model.config.examples else (0.0, 0.0)
        self.batches = PairBatches(rows, model, config.batch, config.seed, *shares)

    def _encode(
        self, name: str, pairs: Sequence[Pair], progress: Callable[[int], None] | None
    ) -> list[Rows]:
        config = self.model.config
        sides = [self.tokenizer.encode_batch([pair[side] for pair in pairs]) for side in (0, 1)]
        fitting = []
        for i, both in enumerate(zip(*sides, strict=True)):
            if max(map(len, both)) < config.context:
                fitting.append(i)
            else:
                reason = f"a side beyond {config.context - 1} tokens"
                self.skipped.add(reason, f"{name} pair {i + 1}")
        examples = examples_for(
            self.model, self.tokenizer, [pairs[i][0] for i in fitting], self._memory, others=True,
            progress=progress,
        )  # fmt: skip
        rows: list[Rows] = []
        for i, given in zip(fitting, examples, strict=True):
            row = [sides[0][i], *given, *[[]] * (config.examples - len(given))], sides[1][i]
            if size(row) <= self._tokens:
                rows.append(row)
            else:
                reason = f"more than a batch of {self._tokens} tokens"
                self.skipped.add(reason, f"{name} pair {i + 1}")
        if not rows:
            raise ValueError(
                f"Translation: {name} has {len(pairs)} pairs, none of them within {config.context}"
                f" tokens a side and a batch of {self._tokens}"
            )
        return rows

    def loss(self, batch: PairBatch) -> Tensor:
        loss: Tensor = self.model(
            batch.source, batch.target, batch.targets, label_smoothing=self.label_smoothing
        )
        return loss

    def tokens(self, batch: PairBatch) -> int:
        return batch.tokens

    def weight(self, batch: PairBatch) -> int:
        return len(batch.targets)

    def evaluate(self) -> dict[str, float]:
        """Nats per target token as "val_loss", and, where it decides, "chrf"."""
        batches = all_pairs(self._validation, self.model, self._tokens)
        unsmoothed = lambda batch: self.model(batch.source, batch.target, batch.targets)  # noqa: E731
        found = {"val_loss": mean_loss(self.model, batches, unsmoothed, self.weight)}
        if self.objective == "chrf":
            found["chrf"] = self._chrf()
        return found

    def _chrf(self) -> float:
        sources = [source for source, _ in self._shown]
        made = translate(self.model, self.tokenizer, sources, memory=self._memory, beam=1)
        return chrf([text or "" for text in made], [t for _, t in self._shown])

    def fingerprint(self) -> str:
        return f"{self.batches.fingerprint()}-{self.label_smoothing}"

    def about_data(self) -> dict[str, int]:
        return {
            "training_pairs": len(self.batches.rows), "validation_pairs": len(self._validation),
            "pairs_too_long": sum(self.skipped.counts.values()),
        }  # fmt: skip
