"""The engine as tests ask it."""

from __future__ import annotations

import torch
from torch import Tensor


def logits_of(engine, tokens: list[int], pieces: int | list[int], vocab_size: int) -> Tensor:
    """Logits [T, V] after each of the tokens, which come in pieces: of these sizes, the last one repeated."""
    sizes = [pieces] if isinstance(pieces, int) else pieces
    sequence, out = engine.open(), torch.full((len(tokens), vocab_size), float("nan"))
    at = done = 0
    while at < len(tokens):
        part = tokens[at : at + sizes[min(done, len(sizes) - 1)]]
        engine.forward([(sequence, part, True)], out[at : at + len(part)])
        at, done = at + len(part), done + 1
    engine.close(sequence)
    return out
