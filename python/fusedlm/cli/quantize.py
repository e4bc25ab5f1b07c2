"""fusedlm quantize: a model as a GGUF file with small weights."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import ModelFile, Threads, model_folder, set_threads


def quantize(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="The .gguf file to write.")],
    format: Annotated[
        str,
        typer.Option(
            help="Of the matrices: q4_0, q4_1, q4_k, q6_k, q8_0, float16, bfloat16 or float32."
        ),
    ] = "q4_1",
    check: Annotated[
        str | None,
        typer.Option(
            help="A text file, a folder, or 'shakespeare': print the perplexity on it before and after.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """Write a model as a GGUF file, for fusedlm and for llama.cpp, with its tokenizer.

    The head, or the embedding where both are one, keeps 8 or 6 bits where the other matrices have 4.

    \b
    Examples:
      fusedlm quantize runs/mine mine.gguf
      fusedlm quantize models/SmolLM2-135M smollm2.gguf --format q4_k --check shakespeare
    """
    from tqdm import tqdm

    from fusedlm.models import Decoder, export_gguf, load

    set_threads(threads)
    if out.suffix.lower() != ".gguf":
        raise ValueError(f"{out}: expected a name that ends in .gguf")
    folder = model_folder(model)
    loaded, tokenizer = load(folder)
    if not isinstance(loaded, Decoder):
        raise ValueError(f"{folder} holds no decoder; GGUF files are written of decoders alone")
    if check is not None and tokenizer is None:
        raise FileNotFoundError(f"{folder / 'tokenizer.json'} is missing, which --check needs")
    total = sum(value.numel() for value in loaded.state_dict().values())
    with tqdm(total=total, unit=" weights", unit_scale=True, disable=None, leave=False) as bar:
        written = export_gguf(
            loaded, tokenizer, out, format, name=folder.name,
            progress=lambda _, count: bar.update(count),
        )  # fmt: skip
    was = sum(value.numel() * value.element_size() for value in loaded.state_dict().values())
    typer.echo(
        f"{out}: {written.bytes / 1e6:.1f} MB, {8 * written.bytes / written.weights:.2f} bits a weight"
        f" ({was / 1e6:.1f} MB in float32)"
    )
    for kind, count in sorted(Counter(written.fallbacks.values()).items()):
        typer.echo(f"{count} matrices are {kind}: their rows are no whole blocks of what was asked")
    if written.no_tokenizer:
        typer.echo(f"the file has no tokenizer: {written.no_tokenizer}")
    if check is not None:
        before, after = (_perplexity(m, tokenizer, check) for m in (loaded, load(out)[0]))
        typer.echo(f"perplexity {before:.3f} before, {after:.3f} after ({after / before - 1:+.2%})")


def _perplexity(model: Any, tokenizer: Any, text: str) -> float:
    from fusedlm.data import load_corpus, pack_text, validation_batches
    from fusedlm.train import evaluate

    data = pack_text(load_corpus(text), tokenizer)
    context = min(model.config.context, 1024)  # of a long one the logits would not fit
    return math.exp(min(evaluate(model, validation_batches(data, 4, context)), 700.0))
