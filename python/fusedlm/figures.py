"""Pictures by matplotlib: a figure that needs no display, and a file that is whole or not there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fusedlm.models.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 120) -> Path:
    """Writes a PNG, whole or not at all. Names are drawn as they are written: "$" begins no formula."""
    _draw_as_written(figure)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)
    return Path(path)


def font_for(labels: Iterable[str]) -> tuple[FontProperties, Callable[[int, str], str]]:
    """A font of this machine that has the most characters, and how a label is drawn with it: by its
    number where the font lacks some of it."""
    from matplotlib import font_manager

    needed = {ord(c) for c in "".join((*labels, "(0123456789)")) if not c.isspace()}

    def lacks(file: str) -> set[int]:
        try:
            return needed - set(font_manager.get_font(file).get_charmap())
        except (OSError, RuntimeError):  # not a font that matplotlib can read
            return needed

    best = str(font_manager.findfont(font_manager.FontProperties()))
    if missing := lacks(best):
        others = sorted(font_manager.findSystemFonts())
        best = min([best, *others], key=lambda file: len(lacks(file)))
        missing = lacks(best)

    def written(number: int, label: str) -> str:
        return f"({number})" if missing & set(map(ord, label)) else label

    return font_manager.FontProperties(fname=best), written


def drawn(plot: Callable[[Path], object], path: Path) -> bool:
    """Whether plot(path) has drawn a picture; what fails is a warning, for the numbers are worth more."""
    try:
        plot(path)
    except Exception as error:
        warnings.warn(f"{path.name} is not drawn: {type(error).__name__}: {error}", stacklevel=2)
        return False
    return True


def _draw_as_written(figure: Figure) -> None:
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    formulas: set[Text] = set()  # powers of ten, which matplotlib itself writes
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), (LogFormatter, ScalarFormatter)):
                ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
                formulas |= {
                    axis.get_offset_text(),
                    *(t for tick in ticks for t in tick.findobj(Text)),
                }
    for text in figure.findobj(Text):
        if text not in formulas:
            text.set_parse_math(False)
