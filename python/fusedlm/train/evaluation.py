"""The loss on data that is not trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fusedlm.models.decoder import Decoder


@torch.no_grad()
def evaluate(model: Decoder, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean loss in nats per token over (tokens, targets) batches, each token with equal weight."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for tokens, targets in batches:
            kept = int((targets != model.config.ignore_index).sum())
            if kept:
                total += float(model(tokens, targets)) * kept
                count += kept
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("evaluate: batches holds no token to predict")
    return total / count
