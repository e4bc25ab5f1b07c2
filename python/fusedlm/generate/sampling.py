"""From logits to the next token: penalties, filters and a draw that a seed reproduces.

The order is that of Hugging Face transformers: repetition penalty, temperature, top-k, top-p,
min-p, draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to choose a token. temperature 0 is greedy; None switches a filter off.

    top_k: keep the k most likely tokens (Fan et al. 2018). top_p: keep the smallest set of most
    likely tokens whose probabilities add up to p (Holtzman et al. 2020). min_p: keep tokens at
    least min_p times as likely as the best. repetition_penalty: divide positive and multiply
    negative logits of tokens already in the row (Keskar et al. 2019). Raises ValueError by name.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check(self.temperature, "temperature", "a number of at least 0", lambda v: v >= 0)
        _check(self.repetition_penalty, "repetition_penalty", "a number above 0", lambda v: v > 0)
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ValueError(
                f"generate: top_k is {self.top_k!r}, expected an integer of at least 1"
            )
        if self.top_p is not None:
            _check(self.top_p, "top_p", "a number in (0, 1]", lambda v: 0 < v <= 1)
        if self.min_p is not None:
            _check(self.min_p, "min_p", "a number in [0, 1]", lambda v: 0 <= v <= 1)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _check(value: object, name: str, expected: str, fits) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not fits(value):
        raise ValueError(f"generate: {name} is {value!r}, expected {expected}")


def penalize_repetition(logits: Tensor, seen: list[list[int]], penalty: float) -> Tensor:
    """logits [B, V] with the tokens in seen[b] made less likely, each once."""
    if penalty == 1.0:
        return logits
    logits = logits.clone()
    for row, tokens in enumerate(seen):
        index = torch.tensor(sorted(set(tokens)), dtype=torch.int64)
        values = logits[row, index]
        logits[row, index] = torch.where(values > 0, values / penalty, values * penalty)
    return logits


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """logits [B, V] -> probabilities [B, K], falling, and the tokens [B, K] they belong to.

    Tokens that a filter drops have probability 0 or are absent. Equally likely tokens rank by id.
    """
    logits = logits.double() / sampling.temperature
    ordered, tokens = logits.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        ordered, tokens = ordered[:, : sampling.top_k], tokens[:, : sampling.top_k]
    probs = torch.softmax(ordered, dim=-1)
    drop = torch.zeros_like(probs, dtype=torch.bool)
    if sampling.top_p is not None:
        drop |= probs.cumsum(-1) - probs >= sampling.top_p
    if sampling.min_p is not None:
        drop |= probs < sampling.min_p * probs[:, :1]
    drop[:, 0] = False  # rounding must not empty the set
    probs = probs.masked_fill(drop, 0.0)
    return probs / probs.sum(-1, keepdim=True), tokens


def choose(
    logits: Tensor, sampling: Sampling, seen: list[list[int]], generators: list[torch.Generator]
) -> list[int]:
    """The next token of each row of logits [B, V]; row b draws from generators[b] alone."""
    logits = penalize_repetition(logits.float(), seen, sampling.repetition_penalty)
    if sampling.greedy:
        return logits.argmax(-1).tolist()
    probs, tokens = filtered_probabilities(logits, sampling)
    draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    # Inverse of the cumulative distribution; the last entry that can be drawn has probability > 0.
    cumulative = probs.cumsum(-1)
    index = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    last = (probs > 0).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, index.minimum(last)).squeeze(-1).tolist()


def row_generators(seed: int | None, rows: int) -> list[torch.Generator]:
    """One generator a row, seeded seed + row, so that a row does not depend on its neighbours.

    Without a seed, one is drawn from torch's own generator, which torch.manual_seed sets.
    """
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    elif type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"generate: seed is {seed!r}, expected an integer in [0, 2**63)")
    return [torch.Generator().manual_seed(seed + row) for row in range(rows)]
