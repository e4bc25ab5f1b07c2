"""The model folder: config.json, model.safetensors, tokenizer.json, training.json.

config.json is the `ModelConfig` plus "format_version". training.json, free-form, says how the
model came about, and may be missing. All weights are float32.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fusedlm.errors import CorruptFileError

from .config import ModelConfig
from .decoder import Decoder
from .folder import atomic_folder, recover_folder

if TYPE_CHECKING:
    from fusedlm.data.tokenizer import Tokenizer

FORMAT_VERSION = 1


def save(
    path: str | os.PathLike, model: Decoder, tokenizer: Tokenizer | None,
    *, training: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Writes the model folder, replacing an older one at `path` all at once."""
    with atomic_folder(path) as folder:
        write_model(folder, model, tokenizer, training=training)


def write_model(
    folder: Path, model: Decoder, tokenizer: Tokenizer | None,
    *, training: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Writes the files of a model folder into `folder`, which exists (see `atomic_folder`)."""
    config = {"format_version": FORMAT_VERSION, **model.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")
    if training is not None:
        (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def load(path: str | os.PathLike) -> tuple[Decoder, Tokenizer | None]:
    """Reads a model folder; returns the model, in eval mode, and its tokenizer.

    The tokenizer is None where tokenizer.json was never written. Raises FileNotFoundError for a
    folder or file that is missing, `CorruptFileError` for one that is damaged and ValueError for a
    newer format, each naming the file.
    """
    folder = Path(os.path.abspath(path))
    recover_folder(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder with a model")
    config = read_config(folder / "config.json")
    model = _empty_decoder(config)
    _load_weights(model, folder / "model.safetensors")
    return model.eval(), _load_tokenizer(folder / "tokenizer.json", config)


def read_config(file: Path) -> ModelConfig:
    values = read_json(file)
    version = values.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise CorruptFileError(file, f"format_version is {version!r}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{file}: format_version is {version}, this fusedlm reads up to {FORMAT_VERSION}; "
            "a newer fusedlm wrote it"
        )
    try:
        return ModelConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CorruptFileError(file, str(error)) from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, or an error that names the file."""
    _must_exist(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(file, f"not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CorruptFileError(file, f"holds a {type(values).__name__}, expected an object")
    return values


def _must_exist(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")


def _empty_decoder(config: ModelConfig) -> Decoder:
    """A decoder that leaves torch's random state as it was: its weights are replaced anyway."""
    with torch.random.fork_rng(devices=[]):
        return Decoder(config)


def _load_weights(model: Decoder, file: Path) -> None:
    _must_exist(file)
    try:
        weights = load_file(file)
    except (SafetensorError, ValueError, OSError) as error:
        raise CorruptFileError(file, f"not a valid safetensors file ({error})") from error
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CorruptFileError(file, f"tensor {name!r} is missing")
        if name not in expected:
            raise CorruptFileError(file, f"tensor {name!r} does not belong to this config")
        shape, wanted = list(weights[name].shape), list(expected[name].shape)
        if shape != wanted:
            raise CorruptFileError(file, f"tensor {name!r} has shape {shape}, expected {wanted}")
        if not weights[name].is_floating_point():
            raise CorruptFileError(
                file, f"tensor {name!r} has dtype {weights[name].dtype}, expected float32"
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise CorruptFileError(file, f"tensor {name!r} has values that are not finite")
    model.load_state_dict(weights)


def _load_tokenizer(file: Path, config: ModelConfig) -> Tokenizer | None:
    if not file.exists():
        return None
    from fusedlm.data.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(file)
    except CorruptFileError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CorruptFileError(file, f"not a valid tokenizer ({error})") from error
    if tokenizer.vocab_size > config.vocab_size:
        raise CorruptFileError(
            file,
            f"has {tokenizer.vocab_size} tokens, the model's vocab_size is {config.vocab_size}",
        )
    return tokenizer
