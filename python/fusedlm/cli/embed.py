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

    Without --out each vector is printed as a line of JSON. A line that is not UTF-8 or has no tokens is
    counted; its vector is null, or NaN in the array.

    \b
    Examples:
      fusedlm embed all-MiniLM-L6-v2 questions.txt --out questions.npy
      echo "How tall is Everest?" | fusedlm embed all-MiniLM-L6-v2 -
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from fusedlm.data.labelled import Skipped
    from fusedlm.models import Encoder
    from fusedlm.models import embed as vectors_of
    from fusedlm.models.files import whole_file
    from fusedlm.models.texts import tokenless

    set_threads(threads)
    name = "stdin" if texts == "-" else texts
    lines = lines_of(texts)
    if not lines:
        raise ValueError(f"{name} is empty, expected one text a line")
    if out is not None:
        out = out if out.suffix == ".npy" else out.with_name(out.name + ".npy")
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder, expected a file or nothing")
    folder = model_folder(model)
    loaded, tokenizer = load_as(folder, Encoder, "an encoder such as MiniLM")
    loaded.compute_dtype = getattr(torch, choose_precision(precision))
    skipped = Skipped()
    numbers = [i for i, line in enumerate(lines) if line is not None]
    none = set(tokenless(loaded, tokenizer, [lines[i] or "" for i in numbers]))
    used = [number for i, number in enumerate(numbers) if i not in none]
    for number in sorted(set(range(len(lines))) - set(used)):
        why = "not UTF-8" if lines[number] is None else "the text has no tokens"
        skipped.add(why, f"{name}:{number + 1}")
    if not used:
        raise ValueError(f"{name} holds no text to embed; {'; '.join(skipped.lines())}")
    vectors = np.full((len(lines), loaded.config.width), np.nan, np.float32)
    with tqdm(total=len(used), unit="text", disable=quiet or out is None) as bar:
        chosen = [lines[i] or "" for i in used]
        vectors[used] = vectors_of(loaded, tokenizer, chosen, progress=bar.update).numpy()
    for left_out in skipped.lines("without a vector"):
        typer.echo(left_out, err=True)
    if out is None:
        found = set(used)
        for number, vector in enumerate(vectors):
            shown = [round(float(x), 6) for x in vector] if number in found else None
            typer.echo(json.dumps(shown))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial, open(partial, "wb") as file:
        np.save(file, vectors)
    typer.echo(f"{out}: {vectors.shape[0]} vectors of {vectors.shape[1]}")
