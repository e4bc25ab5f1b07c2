"""The attention maps of a walk as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from .sentence import Walk

_MOST_MAPS = 1024
_MOST_LABELS = 16  # a side


def plot_attention(walk: Walk, path: str | os.PathLike) -> Path:
    """Writes a PNG: a row of maps for each layer, a map for each head, rows look at columns."""
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, heads, T, _ = walk.weights.shape
    if layers * heads > _MOST_MAPS:
        raise ValueError(
            f"plot_attention: {layers} layers of {heads} heads, expected at most {_MOST_MAPS} maps"
        )
    labels = [token["text"] for token in walk.data["tokens"]]
    labelled = T <= _MOST_LABELS and layers * heads <= 16
    side = max(1.1, min(3.2, 0.35 * T + 0.8)) if labelled else 1.1
    figure = Figure(
        figsize=(side * heads + 1.2, side * layers + 0.9), layout="constrained"
    )
    FigureCanvasAgg(figure)  # needs no display
    font = _font_for("".join(labels), font_manager)
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer][head]
            picture = axes.imshow(walk.weights[layer, head].numpy(), vmin=0, vmax=1, cmap="viridis")
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
    figure.colorbar(picture, ax=grid, shrink=0.6, aspect=30, label="attention weight")
    title = f"Attention of {walk.data['model']['name']}: a row looks at the columns"
    figure.suptitle(title, fontsize=9)
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png", dpi=110)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _font_for(text: str, font_manager):
    """A font of this machine that has the characters, so that Chinese is not a row of boxes."""
    needed = {ord(c) for c in text if ord(c) > 0x7F}
    default = font_manager.FontProperties()
    if not needed:
        return default

    def lacks(file: str) -> int:
        try:
            return len(needed - set(font_manager.get_font(file).get_charmap()))
        except (OSError, RuntimeError):  # not a font that matplotlib can read
            return len(needed) + 1

    files = [font_manager.findfont(default), *sorted(font_manager.findSystemFonts())]
    best = min(files, key=lacks)
    return font_manager.FontProperties(fname=best)
