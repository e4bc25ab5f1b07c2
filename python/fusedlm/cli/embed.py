"""fusedlm embed: vectors of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    ConfigFile,
    Precision,
    Quiet,
    Threads,
    choose_precision,
    lines_of,
    load_as,
    model_folder,
    set_threads,
)


def embed(
    model: Annotated[
        Path, typer.Argument(help="A folder or .gguf file with an encoder, e.g. MiniLM.")
    ],
    texts: Annotated[str, typer.Argument(help="A file with one text a line; '-' is stdin.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Write a NumPy array (.npy) [texts, width].", show_default="JSON lines"),
    ] = None,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Turn every line of a file into a vector, for search, clustering or classification.

    Without --out each vector is printed as a line of JSON.

    \b
    Examples:
      fusedlm embed all-MiniLM-L6-v2 questions.txt --out questions.npy
      echo "How tall is Everest?" | fusedlm embed all-MiniLM-L6-v2 -
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from fusedlm.models import Encoder
    from fusedlm.models import embed as vectors_of
    from fusedlm.models.files import whole_file

    set_threads(threads)
    name = "stdin" if texts == "-" else texts
    lines: list[str] = []
    for number, line in enumerate(lines_of(texts), 1):
        if line is None:
            raise ValueError(f"{name}: line {number} is not UTF-8")
        lines.append(line)
    if not lines:
        raise ValueError(f"{name} is empty, expected one text a line")
    folder = model_folder(model)
    loaded, tokenizer = load_as(folder, Encoder, "an encoder such as MiniLM")
    loaded.compute_dtype = getattr(torch, choose_precision(precision))
    with tqdm(total=len(lines), unit="text", disable=quiet or out is None) as bar:
        vectors = vectors_of(loaded, tokenizer, lines, progress=bar.update).numpy()
    if out is None:
        for vector in vectors:
            typer.echo(json.dumps([round(float(x), 6) for x in vector]))
        return
    out = out if out.suffix == ".npy" else out.with_name(out.name + ".npy")
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial, open(partial, "wb") as file:
        np.save(file, vectors)
    typer.echo(f"{out}: {vectors.shape[0]} vectors of {vectors.shape[1]}")
