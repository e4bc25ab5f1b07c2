"""The loss on data that is not trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fusedlm.models.decoder import Decoder

from .parallel import collect, share


@torch.no_grad()
def evaluate(model: Decoder, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean loss in nats per token over (tokens, targets) batches, each token with equal weight.

    Several ranks, which all have to call it with the same batches, share them.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found = []
    try:
        for (tokens, targets), counts in share(batches):
            kept = int((targets != model.config.ignore_index).sum()) if counts else 0
            loss = float(model(tokens.to(device), targets.to(device)))
            found.append((loss * kept, kept) if kept else (0.0, 0))
    finally:
        model.train(was_training)
    found = collect(found) if found else []
    count = sum(kept for _, kept in found)
    if count == 0:
        raise ValueError("evaluate: batches holds no token to predict")
    return sum(total for total, _ in found) / count
