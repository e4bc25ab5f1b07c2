"""The loss on data that is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from fusedlm.models.decoder import Decoder
from fusedlm.nn.modes import evaluating

from .parallel import collect, share

T = TypeVar("T")


def evaluate(model: Decoder, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean loss in nats per token over (tokens, targets) batches, each token with equal weight.

    Several ranks, which all have to call it with the same batches, share them.
    """
    device = next(model.parameters()).device
    return mean_loss(
        model,
        batches,
        lambda batch: model(*(part.to(device) for part in batch)),
        lambda batch: int((batch[1] != model.config.ignore_index).sum()),
    )


@torch.no_grad()
def mean_loss(
    model: nn.Module, batches: Iterable[T], loss: Callable[[T], Tensor], terms: Callable[[T], int]
) -> float:
    """The mean over all terms, where loss(batch) is that of the terms(batch) of a batch; ranks share."""
    found: list[tuple[float, ...]] = []
    with evaluating(model):
        for batch, counts in share(batches):
            kept = terms(batch) if counts else 0
            value = float(loss(batch))
            found.append((value * kept, kept) if kept else (0.0, 0))
    everywhere = collect(found) if found else []
    count = sum(kept for _, kept in everywhere)
    if count == 0:
        raise ValueError("evaluate: batches holds no token to predict")
    return sum(total for total, _ in everywhere) / count
