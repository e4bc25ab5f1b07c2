"""fusedlm eval: how well a model predicts a text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigFile, Precision, Threads, load_model, set_threads


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder or a training run.")],
    text: Annotated[str, typer.Argument(help="A text file, a folder, or 'shakespeare'.")],
    batch: Annotated[int, typer.Option(min=1, help="Sequences in a batch.")] = 16,
    validation: Annotated[
        float | None,
        typer.Option(help="Only this share at the end of the text.", show_default="all of it"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Measure loss, perplexity and bits per byte of a model on a text.

    \b
    Examples:
      fusedlm eval runs/quickstart shakespeare --validation 0.1
      fusedlm eval runs/mine other_text.txt --json
    """
    from fusedlm.data import load_corpus, pack_text, validation_batches
    from fusedlm.train import evaluate as measure

    set_threads(threads)
    loaded, tokenizer = load_model(model, precision)
    data = pack_text(load_corpus(text), tokenizer)
    if validation is not None:
        data = data.split(validation)[1]
    if len(data) < 2:
        raise ValueError(f"{text} has {len(data)} tokens, expected at least 2")
    loss = measure(loaded, validation_batches(data, batch, loaded.config.context))
    size = len(tokenizer.decode(data.ids.tolist()).encode())
    result = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": loss * len(data) / math.log(2) / max(1, size),
        "tokens": len(data),
        "bytes": size,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"loss          {loss:.4f} nats per token\n"
        f"perplexity    {result['perplexity']:.2f}\n"
        f"bits per byte {result['bits_per_byte']:.4f}\n"
        f"text          {len(data):,} tokens, {size:,} bytes"
    )
