"""Rates of groups and the gaps between them, on counts that are worked out by hand."""

from __future__ import annotations

import json

import pytest

from fusedlm.evaluation import fairness_report, fairness_table, plot_fairness, wilson_interval

# (group, label, prediction): how often
COUNTS = {
    ("a", "y", "y"): 40, ("a", "y", "n"): 10, ("a", "n", "y"): 20, ("a", "n", "n"): 30,
    ("b", "y", "y"): 15, ("b", "y", "n"): 15, ("b", "n", "y"): 3, ("b", "n", "n"): 27,
}  # fmt: skip


def columns(counts=COUNTS):
    rows = [key for key, count in counts.items() for _ in range(count)]
    return [r[1] for r in rows], [r[2] for r in rows], [r[0] for r in rows]


def test_rates_and_gaps_are_those_of_their_definitions():
    table = fairness_table(*columns(), "y")
    a, b = table["groups"]["a"], table["groups"]["b"]
    assert [a[r]["value"] for r in ("accuracy", "selection_rate")] == [0.7, 0.6]
    assert [a[r]["value"] for r in ("true_positive_rate", "false_positive_rate")] == [0.8, 0.4]
    assert [b[r]["value"] for r in ("accuracy", "selection_rate")] == [0.7, 0.3]
    assert [b[r]["value"] for r in ("true_positive_rate", "false_positive_rate")] == [0.5, 0.1]
    assert table["demographic_parity_difference"]["value"] == pytest.approx(0.3)
    assert table["demographic_parity_ratio"]["value"] == pytest.approx(0.5)
    assert table["equalised_odds_difference"]["value"] == pytest.approx(0.3)
    low, high = table["demographic_parity_difference"]["interval"]
    assert 0.1 < low < 0.3 < high < 0.5
    assert table["warnings"] == []


def test_wilson_intervals_are_the_published_ones():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_the_table_is_the_same_again():
    assert fairness_table(*columns(), "y") == fairness_table(*columns(), "y")


def test_small_groups_and_rates_without_a_count_are_warned_of():
    table = fairness_table(*columns({**COUNTS, ("c", "n", "n"): 4}), "y")
    assert table["groups"]["c"]["true_positive_rate"]["value"] is None
    text = fairness_report(table)
    assert "group c has 4 examples" in text and "true positive rate is unknown" in text


def test_one_group_has_nothing_to_be_compared_with():
    table = fairness_table(["y", "n"], ["y", "n"], ["a", "a"], "y")
    assert table["demographic_parity_difference"]["value"] is None
    assert any("one group alone" in warning for warning in table["warnings"])


def test_a_positive_class_that_never_comes_is_an_error():
    with pytest.raises(ValueError, match="positive class 'yes'; the labels are n, y"):
        fairness_table(*columns(), "yes")


def test_the_command_reads_classes_or_scores(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from fusedlm.cli.app import app

    labels, predictions, groups = columns()
    plain, scored = tmp_path / "plain.jsonl", tmp_path / "scored.jsonl"
    rows = list(zip(labels, predictions, groups, strict=True))
    plain.write_text(
        "".join(json.dumps({"label": t, "prediction": p, "group": g}) + "\n" for t, p, g in rows)
        + '{"label": "y", "prediction": "y"}\n'
    )
    scored.write_text(
        "".join(
            json.dumps({"label": t, "s": {"y": 0.9 * (p == "y"), "n": 0.5}, "group": g}) + "\n"
            for t, p, g in rows
        )
    )
    plot = tmp_path / "deep" / "groups.png"
    call = ["fairness", str(plain), "--positive", "y", "--plot", str(plot), "--json"]
    first = json.loads(CliRunner().invoke(app, call).stdout)
    call = ["fairness", str(scored), "--positive", "y", "--prediction", "s", "--json"]
    second = json.loads(CliRunner().invoke(app, call).stdout)
    assert first.pop("left_out") == 1 and second.pop("left_out") == 0
    assert first == second == fairness_table(*columns(), "y")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_plot_leaves_a_gap_where_a_rate_is_unknown(tmp_path):
    table = fairness_table(*columns({**COUNTS, ("c", "n", "n"): 4}), "y")
    assert table["groups"]["c"]["true_positive_rate"]["value"] is None
    plotted = plot_fairness(table, tmp_path / "groups.png")
    assert plotted.read_bytes().startswith(b"\x89PNG")
