"""Model folders that Hugging Face transformers loads, with equal results."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fusedlm.data.tokenizer import END_OF_TEXT, Tokenizer

from .decoder import Decoder
from .encoder import Encoder
from .files import write_json
from .folder import atomic_folder
from .huggingface import FAMILIES, family_for, half_split, write_config
from .huggingface_encoder import names_of, write_encoder_config, write_sentence_transformer
from .lora import merged_state
from .tokenizer_files import GENERATION, SETTINGS, TOKENIZER, check_size, generation_config
from .weights import WEIGHTS, renamed, write_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_hf(
    model: Decoder | Encoder, tokenizer: Tokenizer | None, folder: str | os.PathLike[str],
    *, dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Writes `folder` for the Auto classes of transformers, replacing an older one at once.

    A decoder of GPT-2's layout becomes GPT2LMHeadModel; of Llama's, by biases, norms on heads and
    windows, LlamaForCausalLM, Qwen2, Qwen3 or Mistral. An encoder becomes its family's model or
    classifier, without a classifier also for sentence-transformers. Weights are written in `dtype`.
    Raises ValueError naming the field of the config that no model of transformers has, the tensor with
    a value beyond `dtype`, and for a tokenizer with more tokens than the model.
    """
    if dtype not in DTYPES.values():
        raise ValueError(f"export_hf: dtype is {dtype}, expected one of {', '.join(DTYPES)}")
    if not isinstance(model, (Decoder, Encoder)):
        raise ValueError(
            f"export_hf: model is a {type(model).__name__}, which has no like in transformers;"
            " expected a Decoder or an Encoder"
        )
    if tokenizer is not None:
        check_size("export_hf", tokenizer, model.config.vocab_size)
    if isinstance(model, Encoder):
        config, names = write_encoder_config(model.config), names_of(model.config)
        weights = merged_state(model)
        if model.config.task is None:
            names = replace(names, prefix="")  # the model alone is written without its name
    else:
        config, names = write_config(model.config), FAMILIES[family_for(model.config)]
        weights = merged_state(model)
        if model.config.position == "rope" and model.config.rope_interleaved:
            weights = half_split(model.config, weights)
    config["dtype"] = str(dtype).removeprefix("torch.")
    weights = {n: _rounded(n, v, dtype) for n, v in renamed(model, weights, names).items()}
    with atomic_folder(folder) as new:
        write_tensors(new / WEIGHTS, weights)
        if tokenizer is not None:
            config |= {} if isinstance(model, Encoder) else generation_config(tokenizer)
            _write_tokenizer(new, tokenizer, model)
        if isinstance(model, Encoder) and model.config.task is None:
            write_sentence_transformer(new, model.config)
        write_json(new / "config.json", config)


def _rounded(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = value.to(dtype)
    beyond = rounded.isinf() & value.isfinite()
    if bool(beyond.any()):
        raise ValueError(
            f"export_hf: {name} has a value of {float(value[beyond][0]):.6g}, expected none beyond"
            f" {torch.finfo(dtype).max:.6g} with dtype {dtype}"
        )
    return rounded


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, model: Decoder | Encoder) -> None:
    tokenizer.save(folder / TOKENIZER)
    settings = dict(tokenizer.settings)
    if not settings:
        context = model.config.context
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
        if tokenizer.eos_id is not None:
            settings["eos_token"] = END_OF_TEXT
    settings.setdefault("clean_up_tokenization_spaces", False)
    write_json(folder / SETTINGS, settings)
    if isinstance(model, Decoder):
        write_json(folder / GENERATION, generation_config(tokenizer))
