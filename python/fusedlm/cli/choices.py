"""fusedlm choices: how often a model finds the right answer the likeliest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (  # fmt: skip
    AsJson,
    ConfigFile,
    Format,
    ModelFile,
    Precision,
    Quiet,
    ResultFile,
    Threads,
    choose_precision,
    load_language_model,
    save_result,
    set_threads,
)

if TYPE_CHECKING:
    from fusedlm.evaluation.multiple_choice import Answer


def choices(
    model: ModelFile,
    items: Annotated[
        Path, typer.Argument(help='JSON lines: {"query": ..., "choices": [...], "gold": 0}.')
    ],
    out: ResultFile = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Write each item with its likelihoods there.", show_default="none"),
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Between query and choice.")] = " ",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many items.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    format: Format = None,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Score answers to choose from by how likely the model finds them.

    The form of items is that of lm-evaluation-harness: "query" (or "context", "question"), "choices",
    and the right one as "gold" (or "answer", "label"), its number from 0 or its text. acc takes the
    likeliest choice, acc_norm the one likeliest per byte. Lines that are no such item, and items with
    a choice that the model cannot read, are left out and counted before the first is scored.

    \b
    Examples:
      fusedlm choices SmolLM2-135M-Instruct.Q4_1.gguf items.jsonl
      fusedlm choices runs/mine items.jsonl --out reports/items.json --answers reports/items.jsonl
    """
    from fusedlm.data.labelled import Skipped
    from fusedlm.evaluation import Likelihoods, read_items, score_items
    from fusedlm.evaluation.multiple_choice import scorable, summary

    set_threads(threads)
    if not items.is_file():
        raise FileNotFoundError(f"{items} is missing")
    loaded = load_language_model(model, precision, format)
    likelihoods = Likelihoods(loaded, choose_precision(precision))
    skipped = Skipped()
    known = scorable(likelihoods, read_items(items, skipped), skipped, delimiter=delimiter)
    usable = list(islice(known, limit))
    left_out = skipped.lines()
    if not usable:
        raise ValueError("; ".join([f"{items} holds no items", *left_out]))
    for line in left_out:
        typer.echo(line, err=True)
    scored = score_items(
        likelihoods, usable, delimiter=delimiter, progress=not (quiet or as_json)
    )  # fmt: skip
    found = summary(scored if answers is None else _written(scored, answers), seed=seed)
    result = {**found, "contexts_cut": likelihoods.cut, "left_out": left_out}
    save_result(out, {"model": str(model), "data": str(items), **result})
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"acc       {result['acc']:.4f} ± {result['acc_stderr']:.4f}\n"
        f"acc_norm  {result['acc_norm']:.4f} ± {result['acc_norm_stderr']:.4f} (per byte)\n"
        f"guessing  {result['chance']:.4f}\n"
        f"items     {result['items']:,}"
    )
    if likelihoods.cut:
        typer.echo(
            f"warning: {likelihoods.cut:,} contexts were too long for the model and lost their"
            " beginning"
        )


def _written(scored: Iterable[Answer], path: Path) -> Iterator[Answer]:
    """Passes the answers on and writes them, whole or not at all."""
    from fusedlm.models.files import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        with open(partial, "w", encoding="utf-8") as file:
            for answer in scored:
                file.write(json.dumps(answer.to_dict(), ensure_ascii=False) + "\n")
                yield answer
