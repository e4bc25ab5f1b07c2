"""fusedlm classify eval: how good a classifier is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..options import AsJson, ConfigFile, Precision, Quiet, Threads, model_folder, set_threads
from .source import Format, Group, Label, Positive, Source, Text, Where


def evaluate(
    model: Annotated[Path, typer.Argument(help="A classifier's folder or its training run.")],
    data: Annotated[
        str,
        typer.Argument(
            help="A file, a folder with one folder a class (of its test half), or imdb."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.md, report.json and plots.", show_default="none"),
    ] = None,
    text: Text = "text",
    label: Label = "label",
    where: Where = None,
    format: Format = None,
    group: Group = None,
    positive: Positive = None,
    errors: Annotated[int, typer.Option(min=0, help="Worst errors in the report.")] = 10,
    as_json: AsJson = False,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Measure a classifier on labelled texts, or a tagger on tagged sentences.

    Prints accuracy, precision, recall and F1 of each class and the confusion matrix; --out writes
    them with a calibration plot and the worst errors. With --group and --positive the rates of groups
    are compared as by `fusedlm fairness`.

    \b
    Examples:
      fusedlm classify eval runs/mine test.csv --out reports/mine
      fusedlm classify eval runs/imdb aclImdb
      fusedlm classify eval runs/names dev.conll --json
      fusedlm classify eval runs/loans applications.csv --group sex --positive granted
    """
    from fusedlm.evaluation.card import add_test
    from fusedlm.models.folder import must_be_replaceable

    from .measure import measure, show
    from .model import load_classifier
    from .source import check_groups, read_test

    set_threads(threads)
    if out is not None:
        must_be_replaceable(out, "report.json")
    loaded, tokenizer = load_classifier(model, precision)
    task, labels = loaded.config.task, loaded.config.labels
    assert task is not None and labels is not None  # a classifier's
    source = Source(
        data,
        text=text,
        label=label,
        where=where or [],
        format=format,
        group=group,
        positive=positive,
    )
    check_groups(source, labels)
    if source.task != task:
        kinds = {"sequence": "labelled texts", "token": "tagged sentences (--format conll)"}
        raise ValueError(f"{model} classifies {kinds[task]}; {data} holds {kinds[source.task]}")
    read = read_test(source, labels, loaded, tokenizer)
    report = measure(
        loaded, tokenizer, read, out, title=f"{model} on {data}", errors=errors,
        left_out=read.skipped.lines(), positive=positive, progress=not (quiet or as_json),
    )  # fmt: skip
    add_test(model_folder(model), Path(data).name, report)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show(report, out)
