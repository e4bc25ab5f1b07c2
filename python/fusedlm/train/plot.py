"""The loss curve as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusedlm.figures import new_figure, save_figure


def plot_curve(
    metrics: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    *,
    baselines: dict[str, float] | None = None,
    unit: str = "nats per token",
) -> Path:
    """Writes a PNG of training and validation loss over steps, with a line for each baseline."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    train = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
    validation = [(m["step"], m["val_loss"]) for m in metrics if "val_loss" in m]
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(losses), color="tab:blue", label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="tab:orange", label="validation")
        best = min(validation, key=lambda point: point[1])
        axes.annotate(
            f"{best[1]:.3f}", best, textcoords="offset points", xytext=(0, -14), ha="center"
        )
    for name, value in (baselines or {}).items():
        axes.axhline(value, color="gray", linestyle="--", linewidth=1, label=f"{name} {value:.3f}")
    axes.set(xlabel="step", ylabel=f"loss, {unit}")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def _smooth(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start."""
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(mean / weight)
    return out
