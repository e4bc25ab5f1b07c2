"""A classifier on labelled data: its report, written and printed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fusedlm.data import Labelled, Tagged, Tokenizer
    from fusedlm.models.texts import Classifier


def measure(
    model: Classifier, tokenizer: Tokenizer, data: Labelled | Tagged, out: Path | None, *,
    title: str, errors: int = 10, left_out: list[str] | None = None,
    more: dict[str, Any] | None = None, positive: str | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The report of `model` on `data`, with what is `more`; into the folder `out`, where one is given.

    Where the data has groups, they are compared by how the class `positive` is given to them.
    """
    from tqdm import tqdm

    from fusedlm.evaluation.report import write_report

    with tqdm(total=len(data), desc="testing", unit="text", disable=not progress) as bar:
        if model.config.task == "token":
            found = _tags(model, tokenizer, data, errors, bar.update)
        else:
            found = _classes(model, tokenizer, data, errors, positive, bar.update)
    report = {**found, "left_out": left_out or [], **(more or {})}
    if out is not None:
        write_report(out, report, title=title)
    return report


def show(report: dict[str, Any], out: Path | None) -> None:
    from fusedlm.evaluation.fairness import fairness_report
    from fusedlm.evaluation.report import summary

    typer.echo(summary(report))
    if "fairness" in report:
        typer.echo("\n" + fairness_report(report["fairness"]))
    for line in report["left_out"]:
        typer.echo(line)
    if out is not None:
        typer.echo(f"\nreport          {out / 'report.md'} (and .json, plots, the worst errors)")


def _classes(
    model: Any, tokenizer: Any, data: Labelled, errors: int, positive: str | None, progress: Any
) -> dict[str, Any]:
    from fusedlm.evaluation.classification import classification_report, worst_errors
    from fusedlm.evaluation.fairness import fairness_table
    from fusedlm.models import classify_texts

    labels = model.config.labels
    targets = [labels.index(label) for label in data.labels]
    found = classify_texts(model, tokenizer, data.texts, progress=progress).numpy()
    report = classification_report(found, targets, labels)
    if data.groups and positive is not None:
        predicted = [labels[best] for best in found.argmax(1)]
        report["fairness"] = fairness_table(data.labels, predicted, data.groups, positive)
    return {**report, "errors": worst_errors(found, targets, data.texts, labels, errors)}


def _tags(model: Any, tokenizer: Any, data: Tagged, errors: int, progress: Any) -> dict[str, Any]:
    from fusedlm.evaluation.entities import entity_report, wrong_sentences
    from fusedlm.models.tagging import tag_words

    found = tag_words(model, tokenizer, data.sentences, progress=progress)
    wrong = wrong_sentences(data.sentences, data.tags, found, errors)
    report = {**entity_report(data.tags, found), "errors": wrong}
    known = set(model.config.labels)
    unknown = Counter(tag for tags in data.tags for tag in tags if tag not in known)
    return {**report, "unknown_tags": dict(sorted(unknown.items()))} if unknown else report
