"""How likely a language model finds texts, by the engine.

What follows one context is scored from one computation of it: the context goes into the cache, each
continuation is appended and forgotten again. Several contexts go through the layers together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from fusedlm import _core
from fusedlm.generate import LanguageModel

from .perplexity import windows

Ids = list[int]
Request = tuple[Ids, list[Ids]]  # a context and what may follow it
# Tokens over all contexts that are scored together; more would only cost memory of the cache.
_TOGETHER = 4096
# Rows of logits at a time: 50 MB for a vocabulary of 50,000.
_ROWS = 256


class Score(NamedTuple):
    """log_likelihood in nats; `greedy` says that each token was the likeliest."""

    log_likelihood: float
    greedy: bool


class Likelihoods:
    """Log-likelihoods by `model`. dtype "float32" is for exact comparisons, "bfloat16" faster."""

    def __init__(self, model: LanguageModel, dtype: str = "bfloat16") -> None:
        self.model = model
        self.cut = 0  # contexts that lost their beginning, being too long for the model
        self._dtype = dtype
        self._engine: _core.Engine | None = None

    def encode_pair(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        """The tokens of both, as those of the whole text are: spaces at the end of the context belong
        to the continuation, whose first token may begin with them. An empty context is the token that
        begins texts.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        tokenizer = self.model.vocabulary.tokenizer
        whole = tokenizer.encode(kept + continuation)
        # At least one token is the continuation's, also where the last of the context swallowed it.
        at = min(len(tokenizer.encode(kept)), len(whole) - 1)
        if at < 0:
            raise ValueError(f"likelihood: the continuation {continuation!r} has no tokens")
        return self.beginning() + whole[:at] or self.model.encode(""), whole[at:]

    def refusal(self, context: str, continuation: str) -> str | None:
        """Why the pair cannot be scored, as a phrase that follows "it"; None where it can."""
        try:
            _, rest = self.encode_pair(context, continuation)
        except ValueError:
            return "has no tokens, or nothing to begin with"
        longest = self.model.context
        return None if len(rest) <= longest else f"has more than {longest} tokens, the context"

    def beginning(self) -> Ids:
        """What the tokenizer puts before every text: its bos token, or nothing."""
        tokenizer = self.model.vocabulary.tokenizer
        whole, text = tokenizer.encode("a", add_special=True), tokenizer.encode("a")
        return whole[: whole.index(text[0])]

    def pairs(self, pairs: Iterable[tuple[Ids, Ids]]) -> Iterator[Score]:
        """The scores of (context, continuation) pairs, in order, as they are computed.

        Neighbours with the same context share its computation. A context too long for the model loses
        its beginning, which `cut` counts. Raises ValueError for an empty context or continuation, and
        for a continuation that alone outgrows the model.
        """
        group: list[Request] = []
        size = 0
        for context, rests in self._requests(pairs):
            page = _core.Engine.page_tokens
            need = -(-(len(context) + max(map(len, rests))) // page) * page
            if group and size + need > _TOGETHER:
                yield from self._together(group, size)
                group, size = [], 0
            group.append((context, rests))
            size += need
        if group:
            yield from self._together(group, size)

    def _requests(self, pairs: Iterable[tuple[Ids, Ids]]) -> Iterator[Request]:
        fitted = (self._fitted(*pair) for pair in pairs)
        for context, same in itertools.groupby(fitted, key=lambda pair: pair[0]):
            yield context, [rest for _, rest in same]

    def text(self, ids: Ids, stride: int | None = None) -> float:
        """The log-likelihood of all of `ids` but the first, which is only context.

        A text longer than the model's context is read in windows that each score `stride` tokens (by
        default as many as fit) with all the context that fits before them.
        """
        total = 0.0
        for start, end, scored in windows(len(ids), self.model.context, stride):
            context, rest = ids[start : end - scored], ids[end - scored : end]
            (score,) = self.pairs([(context, rest)])
            total += score.log_likelihood
        return total

    def _fitted(self, context: Ids, rest: Ids) -> tuple[Ids, Ids]:
        if not context or not rest:
            raise ValueError("likelihood: a context or continuation is empty")
        # The last token of a continuation is predicted, and never read.
        room = self.model.context - len(rest) + 1
        if room < 1:
            raise ValueError(
                f"likelihood: a continuation has {len(rest)} tokens, expected at most the model's"
                f" context of {self.model.context}"
            )
        self.cut += len(context) > room
        return context[-room:], rest

    def _together(self, group: list[Request], size: int) -> list[Score]:
        engine = self._engine_for(size)
        sequences = [engine.open(context[:-1]) for context, _ in group]
        try:
            missing = [
                (sequence, context[engine.length(sequence) : -1], False)
                for sequence, (context, _) in zip(sequences, group, strict=True)
                if engine.length(sequence) < len(context) - 1
            ]
            if missing:
                engine.forward(missing, torch.empty(len(missing), self.model.vocab_size))
            scores: list[list[Score]] = [[] for _ in group]
            for turn in range(max(len(rests) for _, rests in group)):
                rows = [n for n, (_, rests) in enumerate(group) if turn < len(rests)]
                pairs = [(group[n][0][-1:], group[n][1][turn]) for n in rows]
                found = self._append(engine, [sequences[n] for n in rows], pairs)
                for n, score in zip(rows, found, strict=True):
                    scores[n].append(score)
                    engine.truncate(sequences[n], len(group[n][0]) - 1)
            return [score for found in scores for score in found]
        finally:
            for sequence in sequences:
                engine.close(sequence)

    def _engine_for(self, tokens: int) -> _core.Engine:
        if self._engine is None or self._engine.cache_tokens < tokens:
            self._engine = _core.Engine(
                self.model.model, dtype=self._dtype, cache_tokens=max(tokens, _TOGETHER)
            )
        return self._engine

    def _append(
        self, engine: _core.Engine, sequences: list[int], pairs: list[tuple[Ids, Ids]]
    ) -> list[Score]:
        """Of each sequence, the score of what follows its last token, which it has not read yet."""
        total, greedy = [0.0] * len(pairs), [True] * len(pairs)
        for batch in _batches(pairs):
            rows = sum(len(read) for _, read, _ in batch)
            logits = torch.empty(rows, self.model.vocab_size)
            engine.forward([(sequences[n], read, True) for n, read, _ in batch], logits)
            targets = torch.tensor([token for _, _, expected in batch for token in expected])
            found = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            best = logits.argmax(-1) == targets
            at = 0
            for n, read, _ in batch:
                part = slice(at, at + len(read))
                total[n] += float(found[part].double().sum())
                greedy[n] &= bool(best[part].all())
                at += len(read)
        return [Score(*score) for score in zip(total, greedy, strict=True)]


def _batches(pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[list[tuple[int, Ids, Ids]]]:
    """(number, tokens to read, tokens that follow each) of up to _ROWS tokens, each number once."""
    batch: list[tuple[int, Ids, Ids]] = []
    size = 0
    for number, (last, rest) in enumerate(pairs):
        read = last + rest[:-1]
        for at in range(0, len(read), _ROWS):
            piece = (number, read[at : at + _ROWS], rest[at : at + _ROWS])
            if batch and (size + len(piece[1]) > _ROWS or at):
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece[1])
    if batch:
        yield batch
