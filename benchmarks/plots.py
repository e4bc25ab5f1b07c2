"""The plots of the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"ours": "tab:blue", "eager": "tab:orange"}


@dataclass(frozen=True)
class Point:
    """An op on the roofline: operations a byte, and operations a second."""

    dtype: str
    who: str
    intensity: float
    speed: float


def roofline(points: list[Point], roofs: dict[str, float], memory: float, path: Path) -> None:
    """Williams et al. 2009: what the memory and the arithmetic allow, and what was reached."""
    figure, axes = plt.subplots(1, len(roofs), figsize=(12, 5), sharey=True)
    for axis, (dtype, peak) in zip(axes, roofs.items(), strict=True):
        shown = [p for p in points if p.dtype == dtype and p.intensity > 0]
        ends = [min(p.intensity for p in shown) / 2, max(p.intensity for p in shown) * 2]
        knee = peak / memory
        axis.plot(
            [ends[0], knee, ends[1]],
            [ends[0] * memory / 1e9, peak / 1e9, peak / 1e9],
            color="black",
            label="memory, registers",
        )
        for who, colour in COLOURS.items():
            mine = [p for p in shown if p.who == who]
            axis.scatter(
                [p.intensity for p in mine],
                [p.speed / 1e9 for p in mine],
                color=colour,
                label=who,
                marker="o" if who == "ours" else "x",
            )
        axis.set(
            xscale="log", yscale="log", title=dtype, xlabel="operations per byte", ylabel="GFLOP/s"
        )
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    save(figure, path)


def lines(panels: dict[str, dict[str, list[tuple[float, float]]]], path: Path) -> None:
    """A panel for each title, a line for each name, log-log."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, line in curves.items():
            axis.plot(*zip(*line, strict=True), marker="o", label=name)
        variable, _, what = title.partition(": ")
        axis.set(xscale="log", yscale="log", title=what, xlabel=variable, ylabel="milliseconds")
        axis.set_xticks([x for x, _ in line], [f"{x:g}" for x, _ in line])
        axis.minorticks_off()
        least, most = (pick(y for each in curves.values() for _, y in each) for pick in (min, max))
        if most < 10 * least:  # no power of ten need lie between
            ticks = [least * (most / least) ** (i / 3) for i in range(4)]
            axis.set_yticks(ticks, [f"{y:.3g}" for y in ticks])
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
