"""A classifier's report as files: report.json for programs, report.md for people, and two plots."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusedlm.figures import drawn
from fusedlm.models.files import write_json
from fusedlm.models.folder import atomic_folder

from .fairness import fairness_report
from .plots import plot_calibration, plot_confusion, plot_fairness


def write_report(folder: str | os.PathLike[str], report: dict[str, Any], *, title: str) -> Path:
    """Writes `report` into `folder`, which it replaces at once.

    `report` is what `classification_report` or `entity_report` found; "errors" (of `worst_errors`),
    "fairness" (a `fairness_table`), "unknown_tags" (how often each) and "left_out" (lines) are shown where
    they are in it. A plot that cannot be drawn is left out, with a warning.
    """
    with atomic_folder(folder, marker="report.json") as new:
        write_json(new / "report.json", report)
        plots: dict[str, tuple[str, Callable[[Path], Path]]] = {}
        if "confusion" in report:
            plots["confusion.png"] = (
                "Confusion matrix",
                lambda path: plot_confusion(report["confusion"], report["labels"], path),
            )
            plots["calibration.png"] = (
                "Calibration",
                lambda path: plot_calibration(report["calibration"], report["ece"], path),
            )
        if "fairness" in report:
            plots["fairness.png"] = (
                "Rates of groups",
                lambda path: plot_fairness(report["fairness"], path),
            )
        shown = {file: name for file, (name, plot) in plots.items() if drawn(plot, new / file)}
        (new / "report.md").write_text(_markdown(report, title, shown), encoding="utf-8")
    return Path(folder)


def summary(report: dict[str, Any]) -> str:
    """The main numbers in a few lines, for a terminal."""
    if "kinds" in report:
        rows = {"all entities": report, **report["kinds"]}
        lines = [f"tag accuracy {report['tag_accuracy']:.2%}"]
        if unknown := report.get("unknown_tags"):
            tags = ", ".join(f"{tag} ({count:,})" for tag, count in unknown.items())
            lines.append(f"tags that the model does not know, each an error: {tags}")
        return "\n".join(lines) + f"\n\n{_table(rows)}"
    head = (
        f"accuracy {report['accuracy']:.2%} of {report['examples']:,} texts, macro F1"
        f" {report['macro_f1']:.4f}, loss {report['loss']:.4f}, ECE {report['ece']:.4f}"
    )
    return f"{head}\n\n{_table(report['classes'])}\n\n{_confusion(report)}"


def _table(rows: dict[str, dict[str, Any]]) -> str:
    width = max(len("class"), *map(len, rows))
    lines = [f"{'class':<{width}}  precision  recall      F1  support"]
    lines += [
        f"{name:<{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}"
        f"  {row['support']:7,}"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def _confusion(report: dict[str, Any]) -> str:
    labels = report["labels"]
    if len(labels) > 10:
        return "The confusion matrix is in confusion.png and report.json."
    width = max(7, *(len(label) for label in labels))
    head = f"{'truth':<{width}}  " + "  ".join(f"{label:>{width}}" for label in labels)
    rows = [
        f"{label:<{width}}  " + "  ".join(f"{count:>{width},}" for count in row)
        for label, row in zip(labels, report["confusion"], strict=True)
    ]
    return "\n".join(["predicted:", head, *rows])


def _markdown(report: dict[str, Any], title: str, plots: dict[str, str]) -> str:
    parts = [f"# {title}", f"```\n{summary(report)}\n```"]
    images = {file: f"![{name}]({file})" for file, name in plots.items()}
    rates = images.pop("fairness.png", "")  # which stand below their table
    parts += [f"## {plots[file]}\n\n{image}" for file, image in images.items()]
    if "fairness" in report:
        parts.append(f"## Groups\n\n{fairness_report(report['fairness'])}\n{rates}".rstrip())
    if report.get("left_out"):
        parts.append("## Left out\n\n" + "\n".join(f"- {line}" for line in report["left_out"]))
    if report.get("errors"):
        parts.append("## Worst errors\n\n" + "\n\n".join(map(_error, report["errors"])))
    return "\n\n".join(parts) + "\n"


def _error(error: dict[str, Any]) -> str:
    quoted = error["text"].replace("<", "&lt;")
    line = f"**{error['label']}**, taken for **{error['predicted']}**"
    if "probability_of_label" in error:
        line += f" (probability of {error['label']}: {error['probability_of_label']:.2g})"
    return f"{line}\n\n> {quoted}"
