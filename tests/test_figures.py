"""What every picture has in common: names as they are written, and numbers that outlive a picture."""

from __future__ import annotations

import json

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from fusedlm.evaluation import (
    classification_report,
    fairness_table,
    plot_confusion,
    plot_fairness,
    plots,
    report,
)
from fusedlm.figures import new_figure, save_figure

HOSTILE = ["$$", "$a^{$", r"\$x$_y", "$"]


def names_everywhere(file, names):
    figure = new_figure(4, 3)
    ticked, categories = figure.subplots(1, 2)
    ticked.set_xticks(range(len(names)), names)
    ticked.set(title=names[0], xlabel=names[0])
    ticked.text(0, 0, names[0])
    ticked.plot([0, 1], [0, 1], label=names[0])
    ticked.legend()
    categories.barh(names, range(len(names)))  # whose ticks are made while drawing
    figure.suptitle(names[0])
    return save_figure(figure, file).read_bytes()


def test_names_are_drawn_as_they_are_written(tmp_path):
    names = ["$x^2$", "a $1 and $2", r"\$"]
    with mpl.rc_context({"text.parse_math": False}):
        plain = names_everywhere(tmp_path / "plain.png", names)
    assert names_everywhere(tmp_path / "drawn.png", names) == plain


def test_powers_of_ten_are_still_formulas(tmp_path):
    figure = new_figure(4, 3)
    axes = figure.add_subplot()
    axes.plot([1, 1e6], [1, 1e6])
    axes.set(xscale="log")
    figure.savefig(tmp_path / "before.png", format="png", dpi=120)
    written = save_figure(figure, tmp_path / "after.png")
    assert written.read_bytes() == (tmp_path / "before.png").read_bytes()


def test_classes_and_groups_may_have_dollars_in_their_names(tmp_path):
    assert plot_confusion(np.eye(4, dtype=int), HOSTILE, tmp_path / "confusion.png").exists()
    table = fairness_table(HOSTILE * 2, HOSTILE * 2, [*HOSTILE, *HOSTILE[::-1]], HOSTILE[1])
    assert plot_fairness(table, tmp_path / "groups.png").exists()


@pytest.fixture
def chinese_font(tmp_path):
    """A font file with ASCII and one character more, all of them boxes."""
    pen = TTGlyphPen(None)
    for i, corner in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        (pen.lineTo if i else pen.moveTo)(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "box"])
    font.setupCharacterMap(dict.fromkeys([*range(32, 127), ord("我")], "box"))
    font.setupGlyf({".notdef": pen.glyph(), "box": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (800, 0), "box": (800, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "boxes.ttf")
    return str(tmp_path / "boxes.ttf")


@pytest.mark.filterwarnings("error")  # matplotlib's for a character that the font lacks
@pytest.mark.parametrize("found", [True, False])
def test_names_are_drawn_with_a_font_that_has_their_characters_or_as_numbers(
    tmp_path, monkeypatch, chinese_font, found
):
    fonts = [chinese_font] if found else []
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: fonts)
    kept = []

    def save_and_keep(figure, path):
        kept.append(figure.axes[0].get_yticklabels())
        return save_figure(figure, path)

    monkeypatch.setattr(plots, "save_figure", save_and_keep)
    plot_confusion(np.eye(2, dtype=int), ["a", "我"], tmp_path / "confusion.png")
    plot_fairness(fairness_table("a我", "aa", "a我", "我"), tmp_path / "groups.png")
    for labels in kept:
        assert [label.get_text() for label in labels] == ["a", "我" if found else "(1)"]
        assert all(
            (label.get_fontproperties().get_file() == chinese_font) == found for label in labels
        )


def test_a_picture_that_fails_costs_neither_the_numbers_nor_the_other_pictures(
    tmp_path, monkeypatch
):
    def fails(*_):
        raise RuntimeError("no such font")

    monkeypatch.setattr(report, "plot_confusion", fails)
    numbers = classification_report(np.eye(2), [0, 1], ["no", "yes"])
    with pytest.warns(UserWarning, match=r"confusion.png is not drawn: RuntimeError: no such font"):
        folder = report.write_report(tmp_path / "report", numbers, title="A model")
    assert json.loads((folder / "report.json").read_text())["accuracy"] == 1
    words = (folder / "report.md").read_text()
    assert "calibration.png" in words and "confusion.png" not in words
