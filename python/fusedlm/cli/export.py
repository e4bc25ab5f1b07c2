"""fusedlm export: a model folder for Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import ModelFile

_HEADS = {
    "sequence": "ForSequenceClassification", "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
}  # fmt: skip


def export(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    dtype: Annotated[
        str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")
    ] = "float32",
) -> None:
    """Write a model as Hugging Face transformers loads it, with tokenizer and chat template.

    \b
    Examples:
      fusedlm export runs/mine exported/mine
      fusedlm export SmolLM2-135M-Instruct.Q4_1.gguf exported/smollm2 --dtype bfloat16
    """
    from fusedlm.models import Encoder, export_hf, load
    from fusedlm.models.export import DTYPES

    from .options import model_folder

    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    loaded, tokenizer = load(model_folder(model))
    export_hf(loaded, tokenizer, out, dtype=DTYPES[dtype])
    task = getattr(loaded.config, "task", None)
    auto = "AutoModel" if isinstance(loaded, Encoder) else "AutoModelForCausalLM"
    auto += _HEADS.get(str(task), "")
    typer.echo(f'{out}: load it by transformers.{auto}.from_pretrained("{out}")')
