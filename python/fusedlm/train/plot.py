"""The curves of a run as a picture: its loss, and what else is measured on data held out."""

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
    """Writes a PNG of training and validation loss over steps, with a line for each baseline.

    Every other number of the evaluations has a panel of its own below.
    """
    scores = _scores(metrics)
    figure = new_figure(8, 5 + 1.5 * len(scores))
    axes, *below = figure.subplots(
        1 + len(scores), 1, sharex=True, squeeze=False, height_ratios=[3, *[1] * len(scores)]
    )[:, 0]
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
    axes.set(ylabel=f"loss, {unit}")
    axes.legend()
    for panel, (name, points) in zip(below, scores.items(), strict=True):
        panel.plot(*zip(*points, strict=True), "o-", color="tab:orange")
        panel.set(ylabel=f"{name.removeprefix('val_')}, validation")
    for panel in (axes, *below):
        panel.grid(alpha=0.3)
    (axes, *below)[-1].set(xlabel="step")
    return save_figure(figure, path)


def _scores(metrics: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of what evaluations found beside the loss, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in metrics:
        if "val_loss" in line:
            for name in line.keys() - {"step", "val_loss"}:
                found.setdefault(name, []).append((line["step"], line[name]))
    return dict(sorted(found.items()))


def _smooth(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start."""
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(mean / weight)
    return out
