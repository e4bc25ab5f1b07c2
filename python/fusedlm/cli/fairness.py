"""fusedlm fairness: whether a classifier serves groups alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import AsJson, ConfigFile, ResultFile, save_result


def fairness(
    predictions: Annotated[
        Path, typer.Argument(help="JSON lines with a label, a prediction and a group each.")
    ],
    positive: Annotated[str, typer.Option(help="The class that is given or withheld.")],
    label: Annotated[str, typer.Option(help="Key of the true class.")] = "label",
    prediction: Annotated[
        str, typer.Option(help="Key of the predicted class, or of scores by class.")
    ] = "prediction",
    group: Annotated[str, typer.Option(help="Key of the group.")] = "group",
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With scores: positive from this score on, else the best of the others.",
            show_default="the class with the highest score",
        ),
    ] = None,
    small: Annotated[int, typer.Option(min=1, help="Warn of groups with fewer examples.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    out: ResultFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the rates and their intervals there (PNG).", show_default="none"),
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Compare a classifier's rates between groups: accuracy, selection, true and false positives.

    Prints a table with intervals, the demographic parity difference and ratio and the equalised odds
    difference, and warns of groups too small to say much about. Lines without a label, a prediction
    or a group are left out and counted.

    \b
    Examples:
      fusedlm fairness predictions.jsonl --positive granted
      fusedlm fairness scored.jsonl --positive yes --prediction probabilities --group sex --out fair.json
    """
    from fusedlm.evaluation import fairness_report, fairness_table, plot_fairness

    rows, missing = _read(predictions, label, prediction, group)
    if not rows:
        raise ValueError(
            f"{predictions} holds no line with {label!r}, {prediction!r} and {group!r}"
        )
    found = [_class_of(row[1], row[2], positive, threshold) for row in rows]
    table = fairness_table(
        [row[0] for row in rows], found, [row[3] for row in rows], positive, small=small, seed=seed
    )
    table["left_out"] = missing
    save_result(out, table)
    if as_json:
        typer.echo(json.dumps(table, ensure_ascii=False))
    else:
        typer.echo(fairness_report(table), nl=False)
        if missing:
            typer.echo(f"- {missing:,} lines without one of the three keys are left out")
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_fairness(table, plot)


def _read(
    file: Path, label: str, prediction: str, group: str
) -> tuple[list[tuple[str, Any, str, str]], int]:
    """(label, prediction, place, group) of each line, and how many lack one of them."""
    from fusedlm.data.json_lines import read_objects

    rows, missing = [], 0
    for row, place in read_objects(file):
        values = [row.get(key) for key in (label, prediction, group)]
        if any(value is None for value in values):
            missing += 1
            continue
        rows.append((_name(values[0]), values[1], place, _name(values[2])))
    return rows, missing


def _name(value: Any) -> str:
    """Classes and groups as text: 1 and "1" are one."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _class_of(value: Any, place: str, positive: str, threshold: float | None) -> str:
    if not isinstance(value, dict):
        if threshold is not None:
            raise ValueError(
                f"{place}: --threshold needs scores by class, the prediction is {value!r}"
            )
        return _name(value)
    numbers = [type(score) in (int, float) for score in value.values()]
    if not numbers or not all(numbers) or positive not in value:
        raise ValueError(
            f"{place}: the scores are {value!r}, expected numbers by class, {positive!r} among them"
        )
    if threshold is None:
        return str(max(value, key=value.__getitem__))
    if value[positive] >= threshold:
        return positive
    others = {name: score for name, score in value.items() if name != positive}
    return max(others, key=others.__getitem__) if others else f"not {positive}"
