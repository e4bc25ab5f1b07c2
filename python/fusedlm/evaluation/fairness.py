"""Whether a classifier serves groups of people alike: rates per group, and how far they are apart.

One class is the `positive` one, what is given or withheld. Per group: accuracy; selection rate, the
share predicted positive; true and false positive rate. Between groups (Hardt et al. 2016,
arXiv:1610.02413; Agarwal et al. 2018, arXiv:1803.02453):

    demographic parity difference   largest less smallest selection rate
    demographic parity ratio        smallest by largest selection rate
    equalised odds difference       the larger of the differences of true and of false positive rates
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .intervals import bootstrap, wilson_interval

RATES = {
    "accuracy": "accuracy",
    "selection_rate": "selected",
    "true_positive_rate": "TPR",
    "false_positive_rate": "FPR",
}
GAPS = (
    "demographic_parity_difference", "demographic_parity_ratio", "equalised_odds_difference",
)  # fmt: skip
SMALL = 50


def fairness_table(
    labels: Sequence[str],
    predictions: Sequence[str],
    groups: Sequence[str],
    positive: str,
    *,
    small: int = SMALL,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The rates of each group with 95 % Wilson intervals, the gaps with 95 % bootstrap intervals.

    A rate is None where its group has nothing to count it on (no label that is positive, say), and a
    gap spans the groups that have one. Groups of fewer than `small` examples, or with fewer than 10
    to count a true or false positive rate on, are named in "warnings". Raises ValueError where
    lengths differ, nothing is given, or no label or prediction is `positive`.
    """
    if not len(labels) == len(predictions) == len(groups):
        raise ValueError(
            f"fairness: {len(labels)} labels, {len(predictions)} predictions, {len(groups)} groups;"
            " expected as many of each"
        )
    if not labels:
        raise ValueError("fairness: there are no examples")
    truth = np.array([label == positive for label in labels])
    chosen = np.array([prediction == positive for prediction in predictions])
    right = np.array([a == b for a, b in zip(labels, predictions, strict=True)])
    if not (truth.any() or chosen.any()):
        raise ValueError(
            f"fairness: no label or prediction is the positive class {positive!r}; the labels are"
            f" {', '.join(sorted(set(labels))[:10])}"
        )
    names = sorted(set(groups))
    number = {name: n for n, name in enumerate(names)}
    of = np.array([number[group] for group in groups])
    hits, counts = _counts(truth, chosen, right, of, len(names))
    table = {name: _row(hits[n], counts[n]) for n, name in enumerate(names)}
    draws = bootstrap(
        lambda rows: _gaps(*_counts(truth[rows], chosen[rows], right[rows], of[rows], len(names))),
        len(labels), resamples=resamples, seed=seed,
    )  # fmt: skip
    gaps = {}
    for name, value, drawn in zip(GAPS, _gaps(hits, counts), draws.T, strict=True):
        seen = drawn[~np.isnan(drawn)]
        sure = not np.isnan(value) and len(seen) > 0
        gaps[name] = {
            "value": float(value) if sure else None,
            "interval": [float(x) for x in np.quantile(seen, [0.025, 0.975])] if sure else None,
        }
    return {
        "positive": positive,
        "examples": len(labels),
        "groups": table,
        **gaps,
        "warnings": _warnings(names, table, small),
    }


def _counts(
    truth: np.ndarray, chosen: np.ndarray, right: np.ndarray, of: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """(hits, counts) [groups, RATES]: a rate is how often it hit among what it counts."""
    everyone = np.ones_like(truth)
    hit = (right, chosen, chosen & truth, chosen & ~truth)
    counted = (everyone, everyone, truth, ~truth)
    sums = [[np.bincount(of[rows], minlength=groups) for rows in which] for which in (hit, counted)]
    return np.array(sums[0]).T, np.array(sums[1]).T


def _row(hits: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"examples": int(counts[0]), "positives": int(counts[2])}
    for name, hit, count in zip(RATES, hits.tolist(), counts.tolist(), strict=True):
        row[name] = {
            "value": hit / count if count else None,
            "count": count,
            "interval": list(wilson_interval(hit, count)) if count else None,
        }
    return row


def _gaps(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """GAPS, nan where fewer than two groups have the rate."""
    rates = np.divide(hits, counts, out=np.full(hits.shape, np.nan), where=counts > 0)
    selected, *odds = (column[~np.isnan(column)] for column in rates.T[1:])
    if len(selected) < 2:
        return np.full(3, np.nan)
    apart = [np.ptp(rate) for rate in odds if len(rate) > 1]
    most = selected.max()
    ratio = selected.min() / most if most else np.nan
    return np.array([np.ptp(selected), ratio, max(apart) if apart else np.nan])


def _warnings(names: list[str], table: dict[str, dict[str, Any]], small: int) -> list[str]:
    found = []
    if len(names) < 2:
        found.append(f"there is one group alone ({names[0]}): nothing to compare it with")
    for name in names:
        row = table[name]
        if row["examples"] < small:
            found.append(
                f"group {name} has {row['examples']} examples, fewer than {small}: its rates are unsure"
            )
        for rate, what in (("true_positive_rate", "true"), ("false_positive_rate", "false")):
            if row[rate]["count"] < min(small, 10):
                kind = "positive" if what == "true" else "negative"
                found.append(
                    f"group {name} has {row[rate]['count']} {kind} labels: its {what} positive rate"
                    + (" is unsure" if row[rate]["count"] else " is unknown")
                )
    return found


def fairness_report(table: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        f"Positive class: {table['positive']}; {table['examples']:,} examples."
        " In brackets: 95 % intervals.",
        "",
        f"| group | examples | positive labels | {' | '.join(RATES.values())} |",
        f"|{' --- |' * (3 + len(RATES))}",
    ]
    for name, row in table["groups"].items():
        shown = name.replace("|", "\\|").replace("\n", " ")
        rates = " | ".join(_shown(row[rate]) for rate in RATES)
        lines.append(f"| {shown} | {row['examples']:,} | {row['positives']:,} | {rates} |")
    lines.append("")
    lines += [f"- {name.replace('_', ' ')}: {_shown(table[name])}" for name in GAPS]
    lines += [f"- warning: {warning}" for warning in table["warnings"]]
    return "\n".join(lines) + "\n"


def _shown(rate: dict[str, Any]) -> str:
    if rate["value"] is None:
        return "unknown"
    low, high = rate["interval"]
    return f"{rate['value']:.3f} [{low:.3f}, {high:.3f}]"
