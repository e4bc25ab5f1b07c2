"""fusedlm answer eval: how good a model's answers are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import AsJson, ConfigFile, Precision, Quiet, Threads, model_folder, set_threads

Threshold = Annotated[
    float | None,
    typer.Option(
        help='Nothing is answered where "no answer" scores so much above the best answer.',
        show_default="the best of the training run, else 0",
    ),
]


def evaluate(
    model: Annotated[Path, typer.Argument(help="A training run or a model folder.")],
    data: Annotated[Path, typer.Argument(help="Questions as SQuAD's JSON or JSON lines.")],
    threshold: Threshold = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.json, answers.jsonl and a plot.", show_default="none"),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Wrong answers to print.")] = 5,
    as_json: AsJson = False,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Measure answers by SQuAD 2.0's exact match and F1.

    Apart for questions that have an answer and those that have none, and at the threshold that is best
    for this data.

    \b
    Examples:
      fusedlm answer eval runs/squad dev-v2.0.json --out reports/squad
      fusedlm answer eval runs/squad questions.jsonl --threshold 1.5 --json
    """
    from tqdm import tqdm

    from fusedlm.data import read_questions
    from fusedlm.evaluation import answer_report
    from fusedlm.evaluation.answers import answer_summary
    from fusedlm.evaluation.card import add_test
    from fusedlm.models import find_answers
    from fusedlm.models.folder import must_be_replaceable
    from fusedlm.models.spans import margin

    from .model import load_reader

    set_threads(threads)
    if out is not None:
        must_be_replaceable(out, "report.json")
    loaded, tokenizer, known = load_reader(model, precision)
    questions = read_questions(data)
    pairs = [(row.question, row.context) for row in questions.rows]
    with tqdm(desc="reading", unit="window", disable=quiet or as_json) as bar:
        found = find_answers(loaded, tokenizer, pairs, progress=bar.update)
    texts, margins = [each[0].text for each in found], [margin(each) for each in found]
    report = answer_report(
        questions.rows, texts, margins, known if threshold is None else threshold
    )
    report["left_out"] = questions.skipped.lines()
    if out is not None:
        rows = zip(questions.rows, texts, margins, strict=True)
        _write(out, report, [
            {"id": row.id, "answer": text, "margin": round(far, 6)} for row, text, far in rows
        ])  # fmt: skip
    add_test(model_folder(model), data.name, report)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(answer_summary(report))
    for line in report["left_out"]:
        typer.echo(line)
    for error in report["errors"][:show]:
        expected = " / ".join(error["expected"]) or "(no answer)"
        typer.echo(
            f"\n{error['question']}\n  expected  {expected}\n  answered  {error['given'] or '-'}"
        )
    if out is not None:
        typer.echo(f"\nreport          {out} (report.json, answers.jsonl, threshold.png)")


def _write(out: Path, report: dict[str, Any], answers: list[dict[str, Any]]) -> None:
    from fusedlm.evaluation.answers import plot_threshold
    from fusedlm.figures import drawn
    from fusedlm.models.files import write_json
    from fusedlm.models.folder import atomic_folder

    with atomic_folder(out, marker="report.json") as new:
        write_json(new / "report.json", report)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in answers)
        (new / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
        drawn(lambda path: plot_threshold(report, path), new / "threshold.png")
