"""Decoders as GGUF files, quantised, for llama.cpp, fusedlm's engine and whatever else reads them.

Needs the package `gguf`: pip install "fusedlm[gguf]".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fusedlm import _core as core
from fusedlm import ops
from fusedlm._rules import yarn_magnitude
from fusedlm.data.tokenizer import Tokenizer

from .config import ModelConfig
from .decoder import Decoder
from .files import whole_file
from .gguf_tokenizer_export import write_tokenizer
from .gguf_types import gguf_package
from .huggingface import family_for, half_split
from .lora import merged_state
from .names import GGUF, GGUF_GPT2
from .tokenizer_files import check_size
from .weights import renamed

# Name -> general.file_type of GGUF.
FORMATS = {
    "float32": 0, "float16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q4_k": 15, "q6_k": 18, "bfloat16": 32,
}  # fmt: skip
# What a matrix becomes whose rows are no whole blocks of its format.
_FALLBACK = {
    "q4_k": "q4_1",
    "q6_k": "q8_0",
    "q4_0": "float16",
    "q4_1": "float16",
    "q8_0": "float16",
}
# The head's error is that of the logits, which no later layer takes back: it keeps more bits.
_HEAD = {"q4_0": "q8_0", "q4_1": "q8_0", "q4_k": "q6_k"}


@dataclass
class Written:
    """What `export_gguf` wrote."""

    path: Path
    bytes: int = 0
    weights: int = 0
    #: Format of each tensor, by its name in the file.
    formats: dict[str, str] = field(default_factory=dict)
    #: Tensors that are not in the format they should have, as their rows are no whole blocks of it.
    fallbacks: dict[str, str] = field(default_factory=dict)
    #: Why the file has no tokenizer; None where it has one.
    no_tokenizer: str | None = None


def export_gguf(
    model: Decoder, tokenizer: Tokenizer | None, path: str | os.PathLike[str], format: str = "q4_1",
    *, name: str | None = None, progress: Callable[[str, int], None] | None = None,
) -> Written:  # fmt: skip
    """Writes `path`, replacing an older file at once.

    `format` is that of the matrices: float32, float16, bfloat16, q8_0, q4_0, q4_1, q4_k or q6_k. The head
    (with a tied model the embedding) has 8 or 6 bits where the others have 4. Norms, biases and positions
    stay float32. `progress(tensor, weights)` is called after each tensor. Raises ValueError for a format
    that is not known, for a model that GGUF's architectures cannot describe, naming the field, and for
    a tokenizer with more tokens than the model.
    """
    path = Path(os.path.abspath(path))
    if format not in FORMATS:
        raise ValueError(f"export_gguf: format is {format!r}, expected one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file or nothing")
    family = _architecture(model.config)
    if tokenizer is not None:
        check_size("export_gguf", tokenizer, model.config.vocab_size)
    gguf = gguf_package(path, "writing GGUF")
    written = Written(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as new:
        writer = gguf.GGUFWriter(new, family)
        writer.add_name(name or path.stem)
        writer.add_file_type(FORMATS[format])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _write_config(writer, gguf, family, model.config)
        written.no_tokenizer = (
            "the model has none" if tokenizer is None
            else write_tokenizer(writer, tokenizer, model.config.vocab_size)
        )  # fmt: skip
        for tensor, value in _tensors(model, family).items():
            wanted = _format_of(model.config, tensor, value, format)
            _add(writer, gguf, written, tensor, value, wanted)
            if progress is not None:
                progress(tensor, value.numel())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    written.bytes = path.stat().st_size
    return written


def _architecture(config: ModelConfig) -> str:
    """The name GGUF has for what `config` says."""
    if len(set(config.windows or [0])) > 1:
        raise ValueError(
            f"export_gguf: windows is {config.windows!r}, and GGUF has one window for all layers"
        )
    family = family_for(config, "export_gguf")
    family = "llama" if family == "mistral" else family
    activation = "gelu_tanh" if family == "gpt2" else "swiglu"
    if config.activation != activation:
        raise ValueError(
            f"export_gguf: activation is {config.activation!r}, and GGUF's {family} has {activation!r}"
        )
    return family


def _write_config(writer: Any, gguf: Any, family: str, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    if family == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_base)
    if config.windows:
        writer.add_sliding_window(config.windows[0])
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif scaling.get("rope_type") == "yarn":
        _write_yarn(writer, gguf, scaling)


def _write_yarn(writer: Any, gguf: Any, scaling: dict[str, Any]) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(scaling["factor"])
    writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if "beta_fast" in scaling:
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
    if "beta_slow" in scaling:
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
    if "attention_factor" in scaling:  # the file's multiplies the usual one
        usual = yarn_magnitude({"factor": scaling["factor"]})
        writer.add_rope_scaling_yarn_attn_factor(scaling["attention_factor"] / usual)


def _tensors(model: Decoder, family: str) -> dict[str, Tensor]:
    """The model's parameters under GGUF's names, in GGUF's order of query and key rows."""
    config, weights = model.config, merged_state(model)
    if config.position == "rope" and config.rope_interleaved != (family == "llama"):
        weights = half_split(config, weights, back=family == "llama")
    tensors = renamed(model, weights, GGUF_GPT2 if family == "gpt2" else GGUF)
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") == "llama3":
        # What each pair's rate is divided by; at position 1 the angles are the rates themselves.
        plain, stretched = (
            ops.rope_tables(2, config.head_width, config.rope_base, scaling=s)[1][1].double().asin()
            for s in (None, scaling)
        )
        tensors["rope_freqs.weight"] = (plain / stretched).float()
    return tensors


def _format_of(config: ModelConfig, tensor: str, value: Tensor, format: str) -> str:
    """What `tensor` should become."""
    if value.dim() != 2 or tensor == "position_embd.weight":
        return "float32"
    head = "token_embd.weight" if config.tied else "output.weight"
    return _HEAD.get(format, format) if tensor == head else format


def _add(writer: Any, gguf: Any, written: Written, tensor: str, value: Tensor, format: str) -> None:
    wanted, cols = format, value.shape[-1]
    while cols % core.weight_block_size(format):
        format = _FALLBACK[format]
    if format != wanted:
        written.fallbacks[tensor] = format
    written.formats[tensor] = format
    written.weights += value.numel()
    rows = value.reshape(-1, cols)
    try:
        data = ops.quantize(rows, format).data.numpy()
    except ValueError as error:
        raise ValueError(f"{tensor}: {error}") from error
    if value.dim() == 1:
        data = data[0]
    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(format, format.upper())
    kind = gguf.GGMLQuantizationType[short]
    writer.add_tensor(tensor, data, raw_dtype=kind)
