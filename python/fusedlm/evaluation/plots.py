"""Pictures of what a model does well: classes it confuses, confidence that is earned or not, rates of groups,
what context is worth to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlm.figures import font_for, new_figure, save_figure

from .fairness import RATES

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

_NUMBERED = 20  # classes up to which every cell of the matrix shows its count


def plot_confusion(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """A PNG of the matrix: truth down, prediction across, shaded by the share of each true class.

    A class whose name no font of the machine can write stands there as its number, from 0.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, 3.5 + 0.45 * len(labels))
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(labels))
    font, shown = _written(labels)
    axes.set_xticks(places, shown, rotation=45, ha="right", fontproperties=font)
    axes.set_yticks(places, shown, fontproperties=font)
    axes.set(xlabel="predicted", ylabel="truth")
    if len(labels) <= _NUMBERED:
        for row in places:
            for column in places:
                dark = shares[row, column] > 0.5
                axes.text(
                    column, row, f"{counts[row, column]:,}", ha="center", va="center",
                    color="white" if dark else "black",
                )  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of the true class")
    return save_figure(figure, path)


def plot_calibration(
    bins: Sequence[dict[str, Any]], ece: float, path: str | os.PathLike[str]
) -> Path:
    """A PNG of accuracy over confidence, with the diagonal of perfect calibration and the counts."""
    figure = new_figure(6, 6)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(bins) + 1)
    filled = [i for i, one in enumerate(bins) if one["examples"]]
    width = 1 / len(bins)
    axes.bar(
        edges[filled], [bins[i]["accuracy"] for i in filled], width, align="edge", alpha=0.6,
        edgecolor="white", label="accuracy",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=1, label="perfect")
    axes.plot(
        [bins[i]["confidence"] for i in filled], [bins[i]["accuracy"] for i in filled], "o-",
        color="tab:orange", markersize=3, linewidth=1, label=f"ECE {ece:.3f}",
    )  # fmt: skip
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    below.bar(edges[:-1], [one["examples"] for one in bins], width, align="edge", edgecolor="white")
    below.set(xlabel="confidence", ylabel="texts")
    for one in (axes, below):
        one.grid(alpha=0.3)
    return save_figure(figure, path)


def plot_fairness(table: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """A PNG of a `fairness_table`: each rate of each group with its 95 % interval.

    A group whose name no font of the machine can write stands there as its number, from 0.
    """
    names = list(table["groups"])
    font, shown = _written(names)
    figure = new_figure(11, 1.8 + 0.35 * len(names))
    places = range(len(names))
    for axes, (rate, title) in zip(
        figure.subplots(1, len(RATES), sharey=True), RATES.items(), strict=True
    ):
        for place, name in enumerate(names):
            found = table["groups"][name][rate]
            if found["value"] is not None:
                low, high = found["interval"]
                axes.plot([low, high], [place, place], color="tab:blue", linewidth=2)
                axes.plot(found["value"], place, "o", color="tab:blue")
        axes.set(title=title, xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(places, shown, fontproperties=font)
    lines = "lines are 95 % intervals"
    below = f"positive class: {table['positive']}; {lines}"
    font, drawn = font_for([below])
    figure.supxlabel(below if drawn(0, below) == below else lines, fontproperties=font, fontsize=9)
    return save_figure(figure, path)


def _written(names: Sequence[str]) -> tuple[FontProperties, list[str]]:
    """The names as they are drawn, long ones cut off, and the font for them."""
    short = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    font, drawn = font_for(short)
    return font, [drawn(number, name) for number, name in enumerate(short)]


def plot_positions(parts: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> Path:
    """A PNG of the "by_position" of `text_loss`: how much a token is better known the more stand before it."""
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    names = [
        f"{one['first']}" if one["first"] == one["last"] else f"{one['first']} to {one['last']}"
        for one in parts
    ]
    axes.plot(range(len(parts)), [one["loss"] for one in parts], "o-")
    axes.set_xticks(range(len(parts)), names, rotation=45, ha="right")
    axes.set(xlabel="tokens before, in the window", ylabel="nats per token")
    axes.grid(alpha=0.3)
    return save_figure(figure, path)
