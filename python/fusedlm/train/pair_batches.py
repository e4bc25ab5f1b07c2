"""Batches of sources and targets, packed without padding, in an order that a seed fixes and a number resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusedlm.data.drawn import Drawn
from fusedlm.models.encoder_decoder import EncoderDecoder, Source
from fusedlm.models.packed import Packed

Rows = tuple[Source, list[int]]  # the tokens of a source with its examples, and of its target


@dataclass(frozen=True)
class PairBatch:
    """Sources that end with the end token, targets that begin with it, and what follows each token."""

    source: Packed
    target: Packed
    targets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Rows], model: EncoderDecoder) -> PairBatch:
        end = model.config.end_id
        return cls(
            model.pack_sources([source for source, _ in rows]),
            Packed.of([[end, *target] for _, target in rows]),
            torch.tensor([token for _, target in rows for token in (*target, end)]),
        )

    @property
    def tokens(self) -> int:
        return len(self.source.tokens) + len(self.target.tokens)


def size(rows: Rows) -> int:
    """Tokens of a pair in a batch, the end tokens among them."""
    return sum(len(part) + 1 for part in rows[0]) + len(rows[1]) + 1


class PairBatches(Drawn):
    """Endless training batches of at most `tokens` tokens, sources, examples and targets together.

    Every epoch visits all pairs in an order drawn for it; the pairs left over from one start the
    next batch. As nothing is padded, pairs of all lengths share a batch at no cost: none is sorted
    by length. The state is one number, the pairs drawn so far.

    What stands in the place of examples is drawn anew for every epoch: a share `alone` of the sources
    goes without, and a share `noised` gets its own target with some tokens left out, added and
    exchanged. That is like an example, but one worth reading: the model learns early to copy, and
    what to correct by the source (as Lewis et al. 2020, arXiv:1910.13461, repair text).
    """

    fixed = ("seed", "tokens")

    def __init__(
        self, rows: Sequence[Rows], model: EncoderDecoder, tokens: int, seed: int = 0,
        alone: float = 0.0, noised: float = 0.0,
    ) -> None:  # fmt: skip
        if not rows:
            raise ValueError("PairBatches: rows is empty, expected at least one pair")
        longest = max(map(size, rows))
        if longest > tokens:
            raise ValueError(
                f"PairBatches: tokens is {tokens}, expected at least {longest}, the longest pair's"
            )
        self.rows, self.model, self.tokens, self.seed = rows, model, tokens, seed
        self.alone, self.noised = alone, noised
        self._tokens = np.array([t for _, target in rows for t in target] or [0])
        self._epoch = -1

    @property
    def epoch_tokens(self) -> int:
        return sum(map(size, self.rows))

    def next(self) -> PairBatch:
        chosen: list[Rows] = []
        room = self.tokens
        # What is noised may be longer than its example, and a batch of its own.
        while (needed := size(rows := self._at(self.drawn))) <= room or not chosen:
            chosen.append(rows)
            room -= needed
            self.drawn += 1
        return PairBatch.of(chosen, self.model)

    def _at(self, number: int) -> Rows:
        epoch, index = divmod(number, len(self.rows))
        if epoch != self._epoch:
            draw = self.lots(epoch)
            self._order = draw.permutation(len(self.rows))
            self._lot = draw.random(len(self.rows))
            self._epoch = epoch
        source, target = self.rows[int(self._order[index])]
        if self._lot[index] < self.alone:
            source = [source[0], *[[]] * (len(source) - 1)]
        elif self._lot[index] < self.alone + self.noised:
            draw = self.lots(epoch, index)
            source = [source[0], self._noisy(target, draw), *source[2:]]
        return source, target

    def _noisy(self, target: list[int], draw: np.random.Generator) -> list[int]:
        """`target` with up to half of its tokens left out, exchanged, or followed by others."""
        lots = draw.random(len(target)) / max(draw.random() / 2, 1e-9)
        others = self._tokens[draw.integers(len(self._tokens), size=len(target))].tolist()
        made: list[int] = []
        for token, lot, other in zip(target, lots, others, strict=True):
            if lot >= 2 / 3:  # of those below 1, a third is left out and a third exchanged
                made.append(token)
            elif lot >= 1 / 3:
                made.append(other)
            if 2 / 3 <= lot < 1:
                made.append(other)
        return made[: self.model.config.context - 1]

    def fingerprint(self) -> str:
        """A hash of all pairs, to know the data again."""
        digest = hashlib.sha256(f"{len(self.rows)} {self.alone} {self.noised}".encode())
        for rows in self.rows:
            digest.update(json.dumps(rows).encode())
        return digest.hexdigest()[:32]


def all_pairs(rows: Sequence[Rows], model: EncoderDecoder, tokens: int) -> Iterator[PairBatch]:
    """Every pair once, in order, in batches of at most `tokens` tokens, or of one longer pair."""
    chosen: list[Rows] = []
    room = tokens
    for pair in rows:
        if chosen and size(pair) > room:
            yield PairBatch.of(chosen, model)
            chosen, room = [], tokens
        chosen.append(pair)
        room -= size(pair)
    if chosen:
        yield PairBatch.of(chosen, model)
