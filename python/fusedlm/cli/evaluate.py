"""fusedlm eval: how well a model predicts a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    AsJson,
    ConfigFile,
    Precision,
    Quiet,
    ResultFile,
    Threads,
    load_model,
    model_folder,
    save_result,
    set_threads,
)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder or a training run.")],
    text: Annotated[str, typer.Argument(help="A text file, a folder, or 'shakespeare'.")],
    batch: Annotated[int, typer.Option(min=1, help="Sequences in a batch.")] = 16,
    validation: Annotated[
        float | None,
        typer.Option(help="Only this share at the end of the text.", show_default="all of it"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens scored in a window, the rest of it being context: fewer are exacter, slower.",
            show_default="the context",
        ),
    ] = None,
    out: ResultFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the loss by the tokens that stand before there (PNG).", show_default="none"
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Measure loss, perplexity and bits per byte of a model on a text.

    Bits per byte and the perplexity per word compare models of different tokenizers. For tasks with
    answers to choose from see `fusedlm choices`.

    \b
    Examples:
      fusedlm eval runs/quickstart shakespeare --validation 0.1
      fusedlm eval runs/mine other_text.txt --stride 64 --out reports/mine.json
    """
    from fusedlm.data import load_corpus, pack_text
    from fusedlm.evaluation import plot_positions, text_loss
    from fusedlm.evaluation.card import add_test

    set_threads(threads)
    folder = model_folder(model)
    loaded, tokenizer = load_model(folder, precision)
    data = pack_text(load_corpus(text), tokenizer)
    if validation is not None:
        data = data.split(validation)[1]
    if len(data) < 2:
        raise ValueError(f"{text} has {len(data)} tokens, expected at least 2")
    result = text_loss(
        loaded, tokenizer, data, batch=batch, stride=stride, progress=not (quiet or as_json)
    )
    save_result(out, {"model": str(model), "text": text, **result})
    part = "" if validation is None else f", the last {validation:.0%}"
    add_test(folder, Path(text).name + part, result)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_positions(result["by_position"], plot)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"loss            {result['loss']:.4f} nats per token\n"
        f"perplexity      {result['perplexity']:.2f} per token,"
        f" {result['word_perplexity']:.2f} per word\n"
        f"bits per byte   {result['bits_per_byte']:.4f}\n"
        f"text            {result['tokens']:,} tokens, {result['words']:,} words,"
        f" {result['bytes']:,} bytes\n"
        f"windows         up to {result['context']:,} tokens, {result['stride']:,} of them scored"
    )
