"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

    loss = -log sigmoid(beta * ((log p(chosen) - log p(rejected)) - (log q(chosen) - log q(rejected))))

p is the model, q the one it was at the start; both log-probabilities are sums over an answer's tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import logsigmoid

from fusedlm.data.conversations import BadRow, checked, read_rows
from fusedlm.data.drawn import Drawn
from fusedlm.data.labelled import Skipped
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError
from fusedlm.models.decoder import Decoder
from fusedlm.models.files import whole_file
from fusedlm.models.packed import Packed
from fusedlm.models.weights import read_tensors
from fusedlm.nn.modes import evaluating

from .answer_tokens import AnswerTokens
from .config import TrainConfig
from .parallel import collect, share
from .task import Task

Row = tuple[list[int], list[int]]
Batch = tuple[Packed, Tensor, Tensor]


@dataclass(frozen=True)
class Pair:
    """Tokens and targets of a conversation with the answer preferred and with the other."""

    chosen: Row
    rejected: Row


class Preference(NamedTuple):
    """Messages, the better answer to them, the other one, and where the three stand."""

    asked: list[Any]
    chosen: str
    rejected: str
    place: str


def read_preferences(source: str, skipped: Skipped) -> list[Preference]:
    """Rows whose prompt, chosen and rejected are strings or messages.

    Raises ValueError where nothing is left, with the reasons.
    """
    found = []
    for row, where in read_rows(source, skipped):
        try:
            found.append(Preference(*_pair(row), where))
        except BadRow as error:
            skipped.add(str(error), where)
    if not found:
        raise ValueError("; ".join([f"{source} holds no preference", *skipped.lines()]))
    return found


def _pair(row: Any) -> tuple[list[Any], str, str]:
    if not isinstance(row, dict) or any(k not in row for k in ("prompt", "chosen", "rejected")):
        raise BadRow("a row without prompt, chosen and rejected")
    prompt = row["prompt"]
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(asked, list) or not asked:
        raise BadRow("a prompt that is neither a text nor messages")
    answers = []
    for name in ("chosen", "rejected"):
        answer = row[name]
        if isinstance(answer, list):  # messages: the last is the answer, the others are the prompt
            if not answer or answer[:-1] not in ([], asked) or not isinstance(answer[-1], dict):
                raise BadRow(f"{name} is no answer to the prompt")
            if answer[-1].get("role") != "assistant":
                raise BadRow(f"{name} ends with a message that is not the assistant's")
            answer = answer[-1].get("content")
        messages = checked([*asked, {"role": "assistant", "content": answer}])
        answers.append(messages[-1]["content"])
    if answers[0] == answers[1]:
        raise BadRow("chosen and rejected are the same")
    return messages[:-1], answers[0], answers[1]


def encode_pairs(
    rows: Sequence[Preference], answers: AnswerTokens, skipped: Skipped, name: str
) -> list[Pair]:
    """Those that fit the context; only the last answer of a conversation counts."""
    found = []
    for row in rows:
        try:
            tokens = [
                answers.encode([*row.asked, {"role": "assistant", "content": text}], last=True)
                for text in (row.chosen, row.rejected)
            ]
        except ValueError as error:
            skipped.add(str(error), row.place)
            continue
        found.append(Pair(*tokens))
    if not found:
        raise ValueError("; ".join([f"{name}: no pair is left", *skipped.lines()]))
    return found


def sequence_log_probs(model: Decoder, packed: Packed, targets: Tensor) -> Tensor:
    """log p of the targets of each packed sequence, [n] float32."""
    losses = model.predict_packed(packed, targets, reduction="none")
    rows = packed.rows[targets != model.config.ignore_index]
    return losses.new_zeros(len(packed.starts) - 1).index_add(0, rows, -losses)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """(loss, margin) of each pair [n]; reference [n, 2] are the first model's log-probabilities."""
    margin = beta * ((chosen - rejected) - (reference[:, 0] - reference[:, 1]))
    return -logsigmoid(margin), margin


@torch.no_grad()
def reference_log_probs(model: Decoder, pairs: Sequence[Pair], batch: int) -> Tensor:
    """[n, 2] of chosen and rejected, by the model as it is (new adapters add nothing yet)."""
    with evaluating(model):
        found = [
            sequence_log_probs(model, *_pack(pairs[i : i + batch])).view(2, -1).T
            for i in range(0, len(pairs), batch)
        ]
    return torch.cat(found)


def _pack(pairs: Sequence[Pair]) -> tuple[Packed, Tensor]:
    """All chosen ones, then all rejected ones."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    targets = torch.tensor([t for _, row in rows for t in row])
    return Packed.of([tokens for tokens, _ in rows]), targets


class PreferenceBatches(Drawn):
    """Endless batches of pairs with their reference; an epoch visits each once, shuffled."""

    fixed = ("seed", "batch")

    def __init__(self, pairs: Sequence[Pair], reference: Tensor, batch: int, seed: int) -> None:
        self.pairs, self.reference, self.batch, self.seed = pairs, reference, batch, seed
        self.per_epoch = -(-len(pairs) // batch)

    def next(self) -> Batch:
        epoch, index = divmod(self.drawn, self.per_epoch)
        order = self.lots(epoch).permutation(len(self.pairs))
        chosen = order[index * self.batch : (index + 1) * self.batch].tolist()
        self.drawn += 1
        return *_pack([self.pairs[i] for i in chosen]), self.reference[chosen]

    def skip(self) -> None:
        self.drawn += 1


class PreferenceTuning(Task):
    """DPO on batches of `config.batch` pairs. `references` are those of both data, [n, 2] each."""

    model: Decoder
    batches: PreferenceBatches
    loss_unit = "nats per pair"

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, train: Sequence[Pair], held: Sequence[Pair],
        references: tuple[Tensor, Tensor], config: TrainConfig, *, beta: float = 0.1,
    ) -> None:  # fmt: skip
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta is {beta}, expected a number above 0")
        self.model, self.tokenizer, self._beta = model, tokenizer, beta
        self.batches = PreferenceBatches(train, references[0], config.batch, config.seed)
        self._held, self._held_reference, self._batch = held, references[1], config.batch

    def prepare(self, config: TrainConfig) -> None:
        super().prepare(config)
        self.model.recompute = config.recompute

    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        packed, targets, reference = batch
        chosen, rejected = sequence_log_probs(self.model, packed, targets).view(2, -1)
        return dpo_loss(chosen, rejected, reference, self._beta)

    def loss(self, batch: Batch) -> Tensor:
        return self._pairs(batch)[0].mean()

    def tokens(self, batch: Batch) -> int:
        return len(batch[0].tokens)

    def weight(self, batch: Batch) -> float:
        return len(batch[2])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss, how often the chosen answer gained more (a tie counts half), and the mean margin."""
        found = []
        with evaluating(self.model):
            for batch, counts in share(self._held_batches()):
                loss, margin = self._pairs(batch)
                right = (margin > 0).float() + 0.5 * (margin == 0).float()
                sums = [float(t.sum()) for t in (loss, right, margin)]
                found.append((*sums, len(loss)) if counts else (0.0, 0.0, 0.0, 0))
        loss, right, margin, count = (sum(c) for c in zip(*collect(found), strict=True))
        return {
            "val_loss": loss / count, "val_accuracy": right / count, "val_margin": margin / count
        }  # fmt: skip

    def _held_batches(self) -> Iterator[Batch]:
        for i in range(0, len(self._held), self._batch):
            chosen = slice(i, i + self._batch)
            yield *_pack(self._held[chosen]), self._held_reference[chosen]

    def fingerprint(self) -> str:
        return f"{fingerprint(self.batches.pairs)}-{self._beta}"

    def about_data(self) -> dict[str, int]:
        return {"training_pairs": len(self.batches.pairs), "validation_pairs": len(self._held)}


def fingerprint(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for part in (*pair.chosen, *pair.rejected):
            digest.update(np.asarray([len(part), *part], dtype=np.int64).data)
    return digest.hexdigest()[:32]


def save_references(file: Path, train: Tensor, held: Tensor) -> None:
    """What a run that goes on can compute no more: the first model is gone then."""
    with whole_file(file) as partial:
        save_file({"train": train.contiguous(), "held": held.contiguous()}, partial)


def load_references(file: Path, train: int, held: int) -> tuple[Tensor, Tensor]:
    found = read_tensors(file)
    for name, count in (("train", train), ("held", held)):
        if name not in found or list(found[name].shape) != [count, 2]:
            raise CorruptFileError(file, f"{name} is missing or not of {count} pairs; other data?")
    return found["train"], found["held"]
