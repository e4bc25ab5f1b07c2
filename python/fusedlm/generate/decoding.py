"""The decoding loop: a batch of rows that grow by one token a step and leave when finished."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedlm.models.decoder import Decoder

from .cache import KVCache
from .sampling import Sampling, choose, row_generators

Prompts = Tensor | Sequence[Sequence[int]]


class Decoding:
    """Rows under way: `step` gives each active row its next token, `finish` takes a row out.

    A row is active until it has max_new_tokens, draws eos_id or is finished from outside. When a
    row fills the context it goes on from its last context / 2 tokens: the older half is forgotten,
    and positions start from 0 again. Rows do so one by one, so no row depends on another.
    """

    def __init__(
        self, model: Decoder, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling,
        eos_id: int | None = None, seed: int | None = None, use_cache: bool = True,
    ) -> None:  # fmt: skip
        self.model = model
        self.prompts = check_prompts(model, prompts)
        if type(max_new_tokens) is not int or max_new_tokens < 0:
            raise ValueError(
                f"generate: max_new_tokens is {max_new_tokens!r}, expected an integer of at least 0"
            )
        if eos_id is not None and (type(eos_id) is not int or eos_id < 0):
            raise ValueError(f"generate: eos_id is {eos_id!r}, expected a token id or None")
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.eos_id = eos_id
        self.use_cache = use_cache
        self.new: list[list[int]] = [[] for _ in self.prompts]
        self.active = list(range(len(self.prompts))) if max_new_tokens else []
        self._generators = row_generators(seed, len(self.prompts))
        # What the model sees of each row: all of it until it no longer fits the context.
        self._seen = [list(prompt) for prompt in self.prompts]
        self._cache: KVCache | None = None
        self._cached_rows: list[int] = []

    def step(self) -> list[tuple[int, int]]:
        """(row, token) for each row that got a token; an eos token ends its row and is left out."""
        if not self.active:
            return []
        logits = self._logits()
        penalized = self.sampling.repetition_penalty != 1.0
        history = [self.prompts[row] + self.new[row] for row in self.active] if penalized else []
        generators = [self._generators[row] for row in self.active]
        tokens = choose(logits, self.sampling, history, generators)
        emitted = []
        for row, token in zip(list(self.active), tokens, strict=True):
            if token == self.eos_id:
                self.finish(row)
                continue
            self.new[row].append(token)
            self._seen[row].append(token)
            emitted.append((row, token))
            if len(self.new[row]) == self.max_new_tokens:
                self.finish(row)
        return emitted

    def finish(self, row: int) -> None:
        if row in self.active:
            self.active.remove(row)

    @torch.inference_mode()
    def _logits(self) -> Tensor:
        """Logits [A, V] after the last token of each active row."""
        model, context = self.model, self.model.config.context
        slid = False
        for row in self.active:
            if len(self._seen[row]) > context:
                del self._seen[row][: -max(1, context // 2)]
                slid = True
        was_training = model.training
        model.eval()
        try:
            if self._cache is None or slid or not self.use_cache:
                return self._prefill()
            if self._cached_rows != self.active:
                self._cache.select([self._cached_rows.index(row) for row in self.active])
                self._cached_rows = list(self.active)
            last = torch.tensor([[self._seen[row][-1]] for row in self.active])
            return model(last, cache=self._cache)
        finally:
            model.train(was_training)

    def _prefill(self) -> Tensor:
        """Runs whole rows, padded on the right to one length, through an empty cache."""
        model, rows = self.model, [self._seen[row] for row in self.active]
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        left = max(self.max_new_tokens - len(self.new[row]) for row in self.active)
        capacity = min(model.config.context, longest + left) if self.use_cache else longest
        self._cache = KVCache(model.config, len(rows), capacity, model.compute_dtype)
        self._cached_rows = list(self.active)
        ragged = min(lengths) != longest
        return model(tokens, cache=self._cache, lengths=torch.tensor(lengths) if ragged else None)


def check_prompts(model: Decoder, prompts: Prompts) -> list[list[int]]:
    """The prompts as lists of ids, or an error that names the prompt and what is wrong."""
    rows = prompts.tolist() if isinstance(prompts, Tensor) else [list(row) for row in prompts]
    context, vocab_size = model.config.context, model.config.vocab_size
    if not rows or not all(isinstance(row, list) for row in rows):
        raise ValueError("generate: tokens is empty or flat, expected [B, T] or a list of lists")
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"generate: prompt {number} is empty, expected at least 1 token")
        if len(row) > context:
            raise ValueError(
                f"generate: prompt {number} has {len(row)} tokens, the model's context is "
                f"{context}; shorten it"
            )
        for token in row:
            if isinstance(token, bool) or not isinstance(token, int):
                raise ValueError(
                    f"generate: prompt {number} holds {token!r}, expected integer token ids"
                )
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"generate: prompt {number} holds token {token}, expected ids from 0 to "
                    f"{vocab_size - 1}"
                )
    return rows
