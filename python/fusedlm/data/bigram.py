"""A bigram model: the simplest one worth beating."""

from __future__ import annotations

import numpy as np

from .packed import PackedData

# How much of the estimate comes from the single tokens; the best of these is taken.
_MIXES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def bigram_loss(train: PackedData, validation: PackedData) -> float:
    """Nats per token of validation under p(b | a) = (1 - m) count(a, b) / count(a) + m p(b).

    p(b) is the add-one estimate. m is the best of a few for the validation data itself, which
    flatters the bigram model: what beats it here has beaten any such model.
    """
    V = train.vocab_size
    if validation.vocab_size != V:
        raise ValueError(
            f"bigram_loss: validation has a vocabulary of {validation.vocab_size} tokens, train of {V}"
        )
    ids = train.ids.astype(np.int64)
    held = validation.ids.astype(np.int64)
    if len(ids) < 2 or len(held) < 2:
        raise ValueError("bigram_loss: expected at least 2 tokens in train and in validation")
    single = (np.bincount(ids, minlength=V) + 1.0) / (len(ids) + V)
    starts = np.bincount(ids[:-1], minlength=V)
    pairs, counts = np.unique(ids[:-1] * V + ids[1:], return_counts=True)
    wanted = held[:-1] * V + held[1:]
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = np.where(pairs[at] == wanted, counts[at], 0)
    paired = seen / np.maximum(starts[held[:-1]], 1)
    return min(float(-np.log((1 - m) * paired + m * single[held[1:]]).mean()) for m in _MIXES)
