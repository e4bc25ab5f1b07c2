"""Models in files: our own folders, and what `load` makes of those of others.

Ours: config.json, model.safetensors, tokenizer.json, training.json. config.json is the `ModelConfig`
plus "format_version"; of an encoder the `EncoderConfig` plus "kind": "encoder", of a decoder that classifies the
`DecoderClassifierConfig` plus "decoder-classifier", of a model that translates the `EncoderDecoderConfig` plus
"encoder-decoder". training.json, free-form, says how the model came about, and may be missing. All weights
are float32.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from fusedlm.errors import CorruptFileError

from . import huggingface, huggingface_encoder, lora
from .config import ModelConfig
from .decoder import Decoder
from .decoder_classifier import DecoderClassifier, DecoderClassifierConfig
from .encoder import Encoder
from .encoder_config import EncoderConfig
from .encoder_decoder import EncoderDecoder
from .encoder_decoder_config import EncoderDecoderConfig
from .files import read_json, write_json
from .folder import atomic_folder, recover_folder
from .names import Names
from .weights import WEIGHTS, Safetensors, Source, fill, write_tensors

if TYPE_CHECKING:
    from fusedlm.data.tokenizer import Tokenizer

FORMAT_VERSION = 1
Model = Decoder | Encoder | DecoderClassifier | EncoderDecoder
Config = ModelConfig | EncoderConfig | DecoderClassifierConfig | EncoderDecoderConfig
# "kind" in config.json, what it is read into, and what is made of it.
_KINDS: dict[str | None, tuple[type[Any], type[Any]]] = {
    None: (ModelConfig, Decoder),
    "encoder": (EncoderConfig, Encoder),
    "decoder-classifier": (DecoderClassifierConfig, DecoderClassifier),
    "encoder-decoder": (EncoderDecoderConfig, EncoderDecoder),
}


def save(
    path: str | os.PathLike[str], model: Model, tokenizer: Tokenizer | None,
    *, training: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Writes the model folder, replacing an older one at `path` all at once.

    Raises ValueError for what is no model of fusedlm, and for a tokenizer with more tokens than it.
    """
    with atomic_folder(path) as folder:
        write_model(folder, model, tokenizer, training=training)


def write_model(
    folder: Path, model: Model, tokenizer: Tokenizer | None,
    *, training: dict[str, Any] | None = None, merged: bool = False,
) -> None:  # fmt: skip
    """Writes the files of a model folder into `folder`, which exists (see `atomic_folder`).

    Adapters are no part of them; `merged` adds them to the weights that are written.
    """
    kinds = [name for name, (_, made) in _KINDS.items() if isinstance(model, made)]
    if not kinds:
        known = ", ".join(made.__name__ for _, made in _KINDS.values())
        raise ValueError(f"save: model is a {type(model).__name__}, expected one of {known}")
    if tokenizer is not None:
        from .tokenizer_files import check_size, write_tokenizer

        check_size("save", tokenizer, model.config.vocab_size)
    named = {} if kinds[0] is None else {"kind": kinds[0]}
    config = {"format_version": FORMAT_VERSION, **named, **model.config.to_dict()}
    write_json(folder / "config.json", config)
    state = lora.merged_state(model) if merged else lora.without_adapters(model.state_dict())
    write_tensors(folder / WEIGHTS, state)
    if tokenizer is not None:
        write_tokenizer(folder, tokenizer)
    if training is not None:
        from fusedlm.evaluation.card import write_card

        write_json(folder / "training.json", training)
        write_card(folder)


def load(path: str | os.PathLike[str], *, weights: bool = True) -> tuple[Model, Tokenizer | None]:
    """Reads our model folder, one of Hugging Face, or a .gguf file; the weights become float32.

    Without `weights` the parameters of a model in a folder stay on the meta device, to be filled later.

    Returns the model, in eval mode, and its tokenizer, None where tokenizer.json is missing. Raises
    FileNotFoundError for a folder or file that is missing, `CorruptFileError` for one that is damaged
    (missing tensors are named all at once), ValueError for a newer format, and NotImplementedError
    for a kind of model, or a setting of it, that is not known; each names the file.
    """
    path = Path(os.path.abspath(path))
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        from .gguf import load_gguf

        return load_gguf(path)
    recover_folder(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder with a model or a .gguf file")
    from .tokenizer_files import read_tokenizer

    folder = huggingface_encoder.encoder_folder(path)
    values = read_json(folder / "config.json")
    source = Safetensors(folder)
    config, names = _read_config(folder / "config.json", values, source)
    model = build(config, source, names, weights=weights)
    return model, read_tokenizer(folder, config.vocab_size)


@overload
def build(
    config: ModelConfig, source: Source, names: Names | None, *, weights: bool = True
) -> Decoder: ...
@overload
def build(
    config: EncoderConfig, source: Source, names: Names | None, *, weights: bool = True
) -> Encoder: ...
@overload
def build(
    config: Config, source: Source, names: Names | None, *, weights: bool = True
) -> Model: ...
def build(config: Config, source: Source, names: Names | None, *, weights: bool = True) -> Model:
    """The model of `config` with the weights of `source`, called by `names`, in eval mode."""
    # Before anything of such a size is made. Every layer has several tensors.
    layers = config.layers + getattr(config, "decoder_layers", 0)
    if layers > len(source.names()):
        raise CorruptFileError(
            source.path, f"has {len(source.names())} tensors, too few for {layers} layers"
        )
    sizes = (size for name in source.names() for size in source.shape(name))
    if not any(size >= config.head_width for size in sizes):  # and so wide are tables of its angles
        raise CorruptFileError(
            source.path, f"has no tensor as wide as a head of {config.head_width}"
        )
    made = next(made for read, made in _KINDS.values() if isinstance(config, read))
    try:
        model: Model = made.empty(config)
    except (RuntimeError, OverflowError) as error:  # a product of sizes that torch cannot count
        raise CorruptFileError(source.path, f"config.json: {error}") from error
    if not weights:
        return model.eval()
    fill(model, source, names)
    decoder = model.decoder if isinstance(model, DecoderClassifier) else model
    if isinstance(decoder, Decoder):
        decoder.grad_dtype = torch.float32  # of the parameters that are there now
    return model.eval()


def _read_config(
    file: Path, values: dict[str, Any], weights: Safetensors
) -> tuple[Config, Names | None]:
    """The config, and what the weights beside it are called: None for our own names."""
    if "format_version" not in values and ("model_type" in values or "architectures" in values):
        fields = huggingface.Fields(file, values)
        if huggingface_encoder.is_encoder(fields):
            config = huggingface_encoder.read_encoder_config(fields, weights.names())
            return config, huggingface_encoder.names_of(config)
        return huggingface.read_config(fields)
    version = values.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise CorruptFileError(file, f"format_version is {version!r}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{file}: format_version is {version}, this fusedlm reads up to {FORMAT_VERSION}; "
            "a newer fusedlm wrote it"
        )
    kind = values.pop("kind", None)
    if kind not in list(_KINDS):  # which may be of any type
        raise CorruptFileError(file, f"kind is {kind!r}, expected one of {[*_KINDS][1:]} or none")
    try:
        read: Config = _KINDS[kind][0].from_dict(values)
    except (ValueError, TypeError) as error:
        raise CorruptFileError(file, str(error)) from error
    return read, None
