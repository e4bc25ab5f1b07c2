"""What drawing a token means, in plain float64 torch: penalties and filters in the order of `ops.sample`."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedlm.generate.sampling import Sampling


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
