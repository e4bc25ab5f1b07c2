"""A linear classifier on what a frozen model makes of texts: one pass over them, then a convex problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusedlm import ops
from fusedlm.models.texts import Classifier, class_names, over_batches

from .length_batches import Sequences

# Of the squared weights; validation chooses. The two strong ones are for fewer texts than features.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def fit_probe(
    model: Classifier, train_data: Sequences, val_data: Sequences, *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Gives model.classifier the weights of the logistic regression that is best on `val_data`.

    Everything below stays as it is. Returns "val_loss", "val_accuracy" and the "penalty" chosen.
    """
    classes, head = len(class_names(model)), model.classifier
    if head is None or head.bias is None:
        raise ValueError("fit_probe: the model has no classifier with a bias")
    if len(train_data.rows) < 2:
        raise ValueError("fit_probe: train_data has 1 row, expected at least 2")
    train, held = (_features(model, data.rows, progress) for data in (train_data, val_data))
    # To mean 0 and spread 1, so that one penalty fits all features; undone in the weights afterwards.
    mean, spread = train.mean(0), train.std(0).clamp(min=1e-6)
    train, held = (train - mean) / spread, (held - mean) / spread
    targets, held_targets = torch.tensor(train_data.targets), torch.tensor(val_data.targets)
    best: dict[str, float] = {}
    for penalty in PENALTIES:
        weight, bias = _regression(train, targets, classes, penalty)
        logits = ops.linear(held, weight, bias)
        accuracy = (logits.argmax(1) == held_targets).float().mean().item()
        loss = torch.nn.functional.cross_entropy(logits, held_targets).item()
        if not best or loss < best["val_loss"]:
            best = {"val_loss": loss, "val_accuracy": accuracy, "penalty": penalty}
            with torch.no_grad():
                head.weight.copy_(weight / spread)
                head.bias.copy_(bias - (weight / spread * mean).sum(1))
    return best


def _features(
    model: Classifier, rows: Sequence[Sequence[int]], progress: Callable[[int], None] | None
) -> Tensor:
    return over_batches(model, rows, model.features, model.config.width, progress=progress)


def _regression(x: Tensor, targets: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ops.linear_cross_entropy(x, weight, targets, bias=bias)
        loss = loss + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
