"""The attention maps of a walk as a picture."""

from __future__ import annotations

import os
from math import nan
from pathlib import Path
from typing import Any

from fusedlm.figures import new_figure, save_figure

from .sentence import Walk

_MOST_MAPS = 1024
_MOST_LABELS = 16  # a side


def plot_attention(walk: Walk, path: str | os.PathLike[str]) -> Path:
    """Writes a PNG: a row of maps for each layer, a map for each head, rows look at columns."""
    from matplotlib import font_manager

    layers, heads, T, _ = walk.weights.shape
    if layers * heads > _MOST_MAPS:
        raise ValueError(
            f"plot_attention: {layers} layers of {heads} heads, expected at most {_MOST_MAPS} maps"
        )
    labels = [token["text"] for token in walk.data["tokens"]]
    labelled = T <= _MOST_LABELS and layers * heads <= 16
    side = max(1.1, min(3.2, 0.35 * T + 0.8)) if labelled else 1.1
    figure = new_figure(side * heads + 1.2, side * layers + 0.9)
    font, labels = _font_for(labels, font_manager)
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer][head]
            shares = walk.weights[layer, head].masked_fill(walk.scores[layer, head].isinf(), nan)
            picture = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis")  # hidden is white
            if labelled:
                axes.set_xticks(range(T), labels, rotation=90, fontproperties=font, fontsize=7)
                axes.set_yticks(range(T), labels, fontproperties=font, fontsize=7)
            else:
                axes.set_xticks([])
                axes.set_yticks([])
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=8)
            if head == 0:
                axes.set_ylabel(f"layer {layer}", fontsize=8)
    bar = min(0.8, 3 / figure.get_figheight())  # 3 inches
    figure.colorbar(picture, ax=grid, shrink=bar, label="attention weight")
    title = f"Attention of {walk.data['model']['name']}: a row looks at the columns"
    figure.suptitle(title, fontsize=9)
    return save_figure(figure, path, dpi=110)


def _font_for(labels: list[str], font_manager: Any) -> tuple[Any, list[str]]:
    """A font of this machine that has the most characters, and the labels; positions where it has not."""
    needed = {ord(c) for c in "".join(labels)}

    def lacks(file: str) -> set[int]:
        try:
            return needed - set(font_manager.get_font(file).get_charmap())
        except (OSError, RuntimeError):  # not a font that matplotlib can read
            return needed

    best = font_manager.findfont(font_manager.FontProperties())
    if missing := lacks(best):
        others = sorted(font_manager.findSystemFonts())
        best = min([best, *others], key=lambda file: len(lacks(file)))
        missing = lacks(best)
    drawn = [
        f"({t})" if missing & set(map(ord, label)) else label for t, label in enumerate(labels)
    ]
    return font_manager.FontProperties(fname=best), drawn
