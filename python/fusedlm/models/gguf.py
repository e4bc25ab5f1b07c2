"""Models from GGUF, the file format of llama.cpp: weights of any of its types, as float32.

Quantised weights need the package `gguf`: pip install "fusedlm[gguf]".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fusedlm._rules import yarn_magnitude
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError

from .config import ModelConfig
from .decoder import Decoder
from .encoder import Encoder
from .gguf_encoder import read_encoder_config
from .gguf_file import GgufFile
from .gguf_tokenizer import build_tokenizer
from .huggingface import MOST_LAYERS, Fields, half_split
from .io import build
from .names import GGUF, GGUF_BERT, GGUF_GPT2, Names

ARCHITECTURES, ENCODER = ("gpt2", "llama", "qwen2", "qwen3"), "bert"
_INTERLEAVED = (
    "llama",
)  # the converter turned the rows of query and key, so that RoPE's pairs are
# Keys, behind the architecture's name, of what a decoder here does not compute unless they are 0.
_REFUSED = (
    "expert_count", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
    "residual_scale", "embedding_scale", "attention.scale", "attention.clamp_kqv",
    "attention.max_alibi_bias", "use_parallel_residual", "attention.sliding_window_pattern",
    "attention.temperature_length", "rope.scaling.attn_factor", "rope.dimension_sections",
)  # fmt: skip


def load_gguf(path: Path) -> tuple[Decoder | Encoder, Tokenizer | None]:
    """The model of a .gguf file, in float32 and eval mode, and its tokenizer if it has one."""
    file = GgufFile(path)
    fields = Fields(path, file.metadata)
    if fields.get("general.architecture") == ENCODER:
        encoder = build(read_encoder_config(file, fields), file, GGUF_BERT)
        return encoder, build_tokenizer(path, file.metadata)
    config, names = read_config(file, fields)
    model = build(config, file, names)
    if file.metadata["general.architecture"] in _INTERLEAVED:
        model.load_state_dict(half_split(config, model.state_dict()), assign=True)
    return model, build_tokenizer(path, file.metadata)


def load_tokenizer(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer of a .gguf file, and its special tokens by their names ("bos_token", ...).

    Raises CorruptFileError where the file has none, NotImplementedError for a kind not known.
    """
    tokenizer = build_tokenizer(path, GgufFile(path).metadata)
    if tokenizer is None:
        raise CorruptFileError(path, "tokenizer.ggml.tokens is missing")
    return tokenizer, tokenizer.special


def read_config(file: GgufFile, fields: Fields) -> tuple[ModelConfig, Names]:
    """The `ModelConfig` that the metadata describe, and what the tensors are called."""
    family = fields.need("general.architecture")
    if family not in ARCHITECTURES:
        raise NotImplementedError(
            f"{file.path}: the architecture {family!r} is not known; known are"
            f" {', '.join(ARCHITECTURES)} (decoders) and {ENCODER} (encoders)"
        )
    values, names = _common(file, fields, family), file.names()

    def has(tensor: str) -> bool:
        return f"blk.0.{tensor}" in names

    if family == "gpt2":
        values |= {
            "norm": "layer_norm", "activation": "gelu_tanh", "position": "learned", "bias": True,
            "norm_eps": fields.number("gpt2.attention.layer_norm_epsilon", 1e-5),
        }  # fmt: skip
    else:
        bias = has("attn_output.bias")
        values |= {
            "norm": "rms_norm", "activation": "swiglu", "position": "rope", "bias": bias,
            "norm_eps": fields.number(f"{family}.attention.layer_norm_rms_epsilon", 1e-5),
            "qkv_bias": has("attn_q.bias"), "qk_norm": has("attn_q_norm.weight"),
            **_rope(file, fields, family, values),
        }  # fmt: skip
    try:
        return ModelConfig.from_dict(values), GGUF_GPT2 if family == "gpt2" else GGUF
    except (ValueError, TypeError) as error:
        raise CorruptFileError(file.path, str(error)) from error


def _common(file: GgufFile, fields: Fields, family: str) -> dict[str, Any]:
    at = f"{family}."
    fields.must_be(0, *(at + name for name in _REFUSED))
    heads = fields.count(at + "attention.head_count")
    width = fields.count(at + "embedding_length")
    layers = fields.count(at + "block_count", most=MOST_LAYERS)  # windows are one a layer
    return {
        "vocab_size": file.vocabulary(),
        "context": fields.count(at + "context_length"),
        "layers": layers, "width": width, "heads": heads,
        "kv_heads": fields.count(at + "attention.head_count_kv", heads),
        "head_width": fields.count(at + "attention.key_length", width // max(1, heads)),
        "ffn_width": fields.count(at + "feed_forward_length"),
        "tied": "output.weight" not in file.names(),
        "windows": [fields.count(at + "attention.sliding_window", 0)] * layers,
    }  # fmt: skip


def _rope(file: GgufFile, fields: Fields, family: str, values: dict[str, Any]) -> dict[str, Any]:
    at = f"{family}.rope."
    fields.must_be(values["head_width"], at + "dimension_count")
    base = fields.number(at + "freq_base", 10000.0)
    # As llama.cpp reads it: a factor is linear unless the type says otherwise, and nothing with "none".
    kind = fields.get(at + "scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise fields.refusal(at + "scaling.type", kind, "none, linear or yarn")
    factor = 1.0
    if kind != "none":  # scale_linear is what older files call it
        older = fields.number(at + "scale_linear", 1.0)
        factor = fields.number(at + "scaling.factor", older)
    scaling = None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        scaling = _yarn_scaling(fields, at + "scaling.", factor, values["context"])
    if "rope_freqs.weight" in file.names():
        if scaling:
            raise NotImplementedError(
                f"{file.path}: both rope_freqs.weight and another scaling, which fusedlm does not compute"
            )
        scaling = _llama3_scaling(file, base, values["head_width"])
    return {"rope_base": base, "rope_scaling": scaling}


def _yarn_scaling(fields: Fields, at: str, factor: float, context: int) -> dict[str, Any]:
    fields.must_be(1.0, at + "yarn_ext_factor")
    fields.must_be(0.0, at + "yarn_log_multiplier")
    scaling = {
        "rope_type": "yarn", "factor": factor,
        "original_max_position_embeddings": fields.count(at + "original_context_length", context),
    }  # fmt: skip
    for name in ("beta_fast", "beta_slow"):
        if at + "yarn_" + name in fields.values:
            scaling[name] = fields.number(at + "yarn_" + name, 1.0)
    own = fields.number(at + "yarn_attn_factor", 1.0)
    if own != 1.0:
        scaling["attention_factor"] = own * yarn_magnitude(scaling)
    return scaling


def _llama3_scaling(file: GgufFile, base: float, head_width: int) -> dict[str, Any]:
    """Which scaling made rope_freqs.weight: converters write the factors, not where they come from."""
    from fusedlm.ops import rope_tables

    found = file.read("rope_freqs.weight")
    scaling = {
        "rope_type": "llama3", "factor": float(found.max()), "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    # Angles at position 1 are the rates themselves, all below 1.
    plain, stretched = (rope_tables(2, head_width, base, scaling=s)[1][1] for s in (None, scaling))
    expected = plain.double().asin() / stretched.double().asin()
    if found.shape != expected.shape or not torch.allclose(found.double(), expected, rtol=1e-3):
        raise NotImplementedError(
            f"{file.path}: rope_freqs.weight is not the scaling of Llama 3.1 to 3.3, and no other is known"
        )
    return scaling
