"""The attention maps of a walk as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import nan
from pathlib import Path

from torch import Tensor

from fusedlm.figures import font_for, new_figure, save_figure

from .sentence import Walk

_MOST_MAPS = 1024
_MOST_LABELS, _MOST_LABELLED = 16, 32  # a side; maps that have them


def plot_attention(walk: Walk, path: str | os.PathLike[str]) -> Path:
    """Writes a PNG: a row of maps for each layer, a map for each head, rows look at columns."""
    rows = _rows(walk)
    heads = walk.weights.shape[1]
    if len(rows) * heads > _MOST_MAPS:
        raise ValueError(
            f"plot_attention: {len(rows)} layers of {heads} heads, expected at most {_MOST_MAPS} maps"
        )
    longest = max(max(len(row.looking), len(row.at)) for row in rows)
    labelled = longest <= _MOST_LABELS and len(rows) * heads <= _MOST_LABELLED
    side = max(1.1, min(3.2, 0.35 * longest + 0.8)) if labelled else 1.1
    figure = new_figure(side * heads + 1.2, side * len(rows) + 0.9)
    font, drawn = font_for([label for row in rows for label in row.looking])
    grid = figure.subplots(len(rows), heads, squeeze=False)
    for number, row in enumerate(rows):
        for head in range(heads):
            axes = grid[number][head]
            shares = row.weights[head].masked_fill(row.scores[head].isinf(), nan)
            picture = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis")  # hidden is white
            if labelled:
                for ticks, labels, turned in (
                    (axes.set_xticks, row.at, 90), (axes.set_yticks, row.looking, 0),
                ):  # fmt: skip
                    names = [drawn(t, label) for t, label in enumerate(labels)]
                    ticks(
                        range(len(names)), names, rotation=turned, fontproperties=font, fontsize=7
                    )
            else:
                axes.set_xticks([])
                axes.set_yticks([])
            if number == 0:
                axes.set_title(f"head {head}", fontsize=8)
            if head == 0:
                axes.set_ylabel(row.name, fontsize=8)
    bar = min(0.8, 3 / figure.get_figheight())  # 3 inches
    figure.colorbar(picture, ax=grid, shrink=bar, label="attention weight")
    title = f"Attention of {walk.data['model']['name']}: a row looks at the columns"
    figure.suptitle(title, fontsize=9)
    return save_figure(figure, path, dpi=110)


@dataclass(frozen=True)
class _Row:
    """One layer's maps [H, T, S]: tokens `looking`, `at` tokens."""

    name: str
    weights: Tensor
    scores: Tensor
    looking: list[str]
    at: list[str]


def _rows(walk: Walk) -> list[_Row]:
    """In the order of the model; of an encoder-decoder its encoder, then each layer of the decoder twice."""
    own = [token["text"] for token in walk.data["tokens"]]

    def row(name: str, maps: str, layer: int, looking: list[str], at: list[str]) -> _Row:
        found = walk.maps[maps]
        return _Row(name, found.weights[layer], found.scores[layer], looking, at)

    layers = range(len(walk.weights))
    if "source" not in walk.data:
        return [row(f"layer {n}", "maps", n, own, own) for n in layers]
    read = [token["text"] for token in walk.data["source"]["tokens"]]
    found = [
        row(f"source, layer {n}", "source_maps", n, read, read)
        for n in range(len(walk.data["source"]["layers"]))
    ]
    for n in layers:
        found.append(row(f"target, layer {n}", "maps", n, own, own))
        found.append(row(f"target at source, {n}", "cross_maps", n, own, read))
    return found
