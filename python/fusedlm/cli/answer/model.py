"""The model that answers: loaded, or put on top of an encoder that is trained already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import choose_precision, load_as, load_with_tokenizer, model_folder

if TYPE_CHECKING:
    from fusedlm.data import Tokenizer
    from fusedlm.models import Encoder


def load_reader(path: Path, precision: str) -> tuple[Encoder, Tokenizer, float]:
    """(model, tokenizer, threshold) of a folder or a training run.

    The threshold is the best one on the data that the model was chosen by, 0 where nobody knows it.
    """
    import torch

    from fusedlm.models.files import read_json

    folder = model_folder(path)
    model, tokenizer = load_with_tokenizer(folder)
    if getattr(model.config, "task", None) != "span":
        raise ValueError(
            f"{folder} answers no questions; `fusedlm answer train --from` makes an encoder do so"
        )
    model.compute_dtype = getattr(torch, choose_precision(precision))
    best = read_json(folder / "training.json", optional=True).get("best")
    threshold = best.get("val_threshold", 0.0) if isinstance(best, dict) else 0.0
    return model, tokenizer, float(threshold)


def reader_on(base: str) -> tuple[Encoder, Tokenizer]:
    """An encoder with its weights and a new head; one that answers already keeps its head."""
    from fusedlm.models import Encoder

    from ..classify.model import base_folder, with_weights_of

    folder = base_folder(base)
    model, tokenizer = load_as(folder, Encoder, "an encoder (BERT, RoBERTa, MiniLM ...)")
    if model.config.task == "span":
        return model, tokenizer
    config = replace(
        model.config, task="span", labels=None, head="dense", pooler=False, cut="end",
        max_tokens=None, ngrams=0, ngram_tokens=None,
    )  # fmt: skip
    return with_weights_of(model, Encoder(config)), tokenizer
