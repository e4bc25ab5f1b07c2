"""The statistics of a corpus as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fusedlm.figures import new_figure, save_figure


def plot_report(report: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Writes a PNG: lengths, growth of the vocabulary, Zipf's law, languages, what became of the rows."""
    statistics = report["statistics"]
    figure = new_figure(13, 7.5)
    axes = figure.subplots(2, 3)
    for place, unit in ((axes[0, 0], "words"), (axes[0, 1], "characters")):
        _lengths(place, statistics[unit], unit)
    _growth(axes[0, 2], statistics)
    _zipf(axes[1, 0], statistics["zipf"])
    if "languages" in statistics:
        _bars(axes[1, 1], statistics["languages"], "documents by language")
    else:
        _bars(axes[1, 1], statistics["scripts"], "documents by script")
    _bars(axes[1, 2], _fates(report), "what became of the rows")
    return save_figure(figure, path)


def _lengths(axes: Any, lengths: dict[str, Any], unit: str) -> None:
    starts = [max(start, 1) for start, _ in lengths["histogram"]]
    counts = [count for _, count in lengths["histogram"]]
    widths = [max((1 << start.bit_length() - 1) / 4, 1) for start in starts]
    axes.bar(
        starts, counts, widths, align="edge", color="tab:blue", edgecolor="white", linewidth=0.3
    )
    for name, style in (("median", "--"), ("percentile_95", ":")):
        label = f"{name.replace('_', ' ')} {lengths[name]:,}"
        axes.axvline(
            max(lengths[name], 1), color="black", linestyle=style, linewidth=1, label=label
        )
    axes.set(
        xscale="log", xlabel=f"{unit} of a document", ylabel="documents", title=f"length in {unit}"
    )
    axes.legend()


def _growth(axes: Any, statistics: dict[str, Any]) -> None:
    points = [point for point in statistics["vocabulary_growth"] if point[1]]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", markersize=3)
    title = f"vocabulary: {statistics['distinct_words']:,} words"
    axes.set(xscale="log", yscale="log", xlabel="words read", ylabel="distinct words", title=title)
    axes.grid(alpha=0.3)


def _zipf(axes: Any, points: list[tuple[int, int]]) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color="tab:orange", label="counted")
        ranks = [rank for rank, _ in points]
        axes.plot(
            ranks, [points[0][1] / rank for rank in ranks], "--", color="gray", label="1 / rank"
        )
        axes.legend()
    axes.set(
        xscale="log", yscale="log", xlabel="rank of a word", ylabel="count", title="Zipf's law"
    )
    axes.grid(alpha=0.3)


def _fates(report: dict[str, Any]) -> dict[str, int]:
    fates = {"kept": report["rows_kept"]}
    fates |= {name: step["dropped"] for name, step in report["steps"].items() if step["dropped"]}
    return fates | {f"bad: {kind}": bad["count"] for kind, bad in report["bad_rows"].items()}


def _bars(axes: Any, counts: dict[str, int], title: str) -> None:
    shown = dict(list(counts.items())[:10])
    bars = axes.barh(list(shown), list(shown.values()), color="tab:green")
    axes.bar_label(bars, [f"{count:,}" for count in shown.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(title=title)
