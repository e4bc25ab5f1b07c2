"""What the picture of a run shows."""

from __future__ import annotations

import pytest

from fusedlm.train import plot, plot_curve

LINES = [
    {"step": 0, "val_loss": 0.7, "val_accuracy": 0.5, "val_margin": 0.0},
    {"step": 1, "loss": 0.7, "lr": 0.1},
    {"step": 2, "loss": 0.5, "lr": 0.1},
    {"step": 2, "val_loss": 0.6, "val_accuracy": 0.75, "val_margin": 0.2},
]


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """plot_curve, but what comes back are the panels that it drew."""

    def draw(lines):
        kept = []
        monkeypatch.setattr(plot, "save_figure", lambda figure, path: kept.append(figure))
        plot_curve(lines, tmp_path / "curve.png")
        return kept[0].axes

    return draw


def points(axes, name=None):
    (line,) = [one for one in axes.lines if name is None or one.get_label() == name]
    return [tuple(point) for point in line.get_xydata().tolist()]


def test_the_curve_has_a_panel_for_each_number_beside_the_validation_loss(panels):
    loss, accuracy, margin = panels(LINES)
    assert points(loss, "validation") == [(0, 0.7), (2, 0.6)]
    assert loss.get_ylabel() == "loss, nats per token" and not loss.get_xlabel()
    assert accuracy.get_ylabel() == "accuracy, validation"
    assert points(accuracy) == [(0, 0.5), (2, 0.75)]
    assert points(margin) == [(0, 0.0), (2, 0.2)] and margin.get_xlabel() == "step"


def test_a_run_without_other_numbers_has_the_loss_alone(panels):
    (loss,) = panels([{"step": 1, "loss": 0.7, "lr": 0.1}, {"step": 2, "val_loss": 0.6}])
    assert loss.get_xlabel() == "step"
