"""Decoders in Hugging Face's layout: what their config.json means, and how ours is written as one.

What a config asks for and `Decoder` does not compute is refused by name, never left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusedlm._rules import yarn_beyond_us
from fusedlm.errors import CorruptFileError

from .config import ModelConfig
from .names import GPT2, LLAMA, Names

FAMILIES = {"gpt2": GPT2, "llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "mistral": LLAMA}
ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "mistral": "MistralForCausalLM",
}  # fmt: skip
MOST_LAYERS = 10_000
_PLAIN = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
_GATED = {
    "silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
}  # fmt: skip


class Fields:
    """The values of a foreign config; missing and unusable ones become errors that name file and field."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file = file
        self.values = values

    def get(self, name: str, default: Any = None) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise CorruptFileError(self.file, f"{name} is missing")
        return self.values[name]

    def count(self, name: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        value = self.need(name) if default is None else self.get(name, default)
        if type(value) is not int or not 0 <= value <= most:
            raise CorruptFileError(
                self.file, f"{name} is {value!r}, expected an integer from 0 to {most}"
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A float32 of the file as the shortest number that means the same: 1e-05, not 9.99999974e-06."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)):
            raise CorruptFileError(self.file, f"{name} is {value!r}, expected a number")
        return float(str(np.float32(value)))

    def strings(self, name: str) -> list[str]:
        value = self.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise CorruptFileError(
                self.file, f"{name} is {value!r:.200}, expected a list of strings"
            )
        return value

    def one_of(self, name: str, known: dict[str, str], default: str) -> str:
        value = self.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise self.refusal(name, value, f"one of {', '.join(known)}")
        return known[value]

    def must_be(self, default: Any, *names: str) -> None:
        """Refuses a field that is set to something else than what we compute."""
        for name in names:
            if self.get(name, default) != default:
                raise self.refusal(name, self.values[name], f"{default!r} or nothing")

    def refusal(self, name: str, value: Any, expected: str) -> NotImplementedError:
        return NotImplementedError(
            f"{self.file}: {name} is {value!r}, which fusedlm does not compute; expected {expected}"
        )


def family_of(fields: Fields) -> str:
    """model_type, or what the name of the architecture says. NotImplementedError for an unknown one."""
    family = fields.get("model_type")
    if family is None:
        named = (fields.strings("architectures") or [""])[0]
        family = next((f for f, a in ARCHITECTURES.items() if a == named), named)
    if isinstance(family, str) and family in FAMILIES:
        fields.must_be(None, "quantization_config")
        return family
    raise NotImplementedError(
        f"{fields.file}: the architecture {family!r} is not known; known are"
        f" {', '.join(sorted(FAMILIES))} (decoders), bert, distilbert and roberta (encoders)"
    )


def read_config(fields: Fields) -> tuple[ModelConfig, Names]:
    """The `ModelConfig` of a Hugging Face config.json, and what its weights are called."""
    family = family_of(fields)
    values = _gpt2(fields) if family == "gpt2" else _llama(fields, family)
    try:
        return ModelConfig.from_dict(values), FAMILIES[family]
    except (ValueError, TypeError) as error:
        raise CorruptFileError(fields.file, str(error)) from error


def _gpt2(fields: Fields) -> dict[str, Any]:
    fields.must_be(True, "scale_attn_weights")
    fields.must_be(False, "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    width = fields.count("n_embd")
    return {
        "vocab_size": fields.count("vocab_size"), "context": fields.count("n_positions"),
        "layers": fields.count("n_layer"), "width": width, "heads": fields.count("n_head"),
        "ffn_width": fields.count("n_inner", 4 * width), "norm": "layer_norm",
        "norm_eps": fields.get("layer_norm_epsilon", 1e-5),
        "activation": fields.one_of("activation_function", _PLAIN, "gelu_new"),
        "position": "learned", "bias": True, "tied": fields.get("tie_word_embeddings", True),
    }  # fmt: skip


def _llama(fields: Fields, family: str) -> dict[str, Any]:
    fields.must_be(1.0, "partial_rotary_factor")
    bias = fields.get("mlp_bias", False) if family == "llama" else False
    if family in ("llama", "qwen3"):  # in Llama also a bias of the output, so all of them or none
        fields.must_be(bias, "attention_bias")
    base, scaling = _rope(fields)
    layers = fields.count("num_hidden_layers", most=MOST_LAYERS)  # windows are one a layer
    heads = fields.count("num_attention_heads")
    width = fields.count("hidden_size")
    head_width = fields.get("head_dim", 128 if family == "qwen3" else None)
    kv_heads = 8 if family == "mistral" else heads  # where the file does not say
    return {
        "vocab_size": fields.count("vocab_size"), "layers": layers, "width": width, "heads": heads,
        "context": fields.count("max_position_embeddings", 2048),
        "kv_heads": fields.count("num_key_value_heads", kv_heads), "head_width": head_width,
        "ffn_width": fields.count("intermediate_size"), "norm": "rms_norm",
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "activation": fields.one_of("hidden_act", _GATED, "silu"), "position": "rope",
        "rope_base": base, "rope_scaling": scaling, "bias": bias,
        "qkv_bias": True if family == "qwen2" else bias, "qk_norm": family == "qwen3",
        "tied": fields.get("tie_word_embeddings", False),
        "windows": _windows(fields, family, layers),
    }  # fmt: skip


def _rope(fields: Fields) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling; transformers 5 has both in rope_parameters, older ones each by itself."""
    given = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise CorruptFileError(fields.file, f"rope_parameters is {given!r}, expected an object")
    scaling = dict(given)
    base = scaling.pop("rope_theta", None) or fields.get("rope_theta", 10000.0)
    if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
        raise fields.refusal("partial_rotary_factor", given["partial_rotary_factor"], "1")
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", kind) or "default"
    if kind == "default":
        return base, None
    if not isinstance(kind, str) or kind not in ("linear", "llama3", "yarn"):
        raise fields.refusal("rope_type", kind, "default, linear, llama3 or yarn")
    if kind == "yarn":
        if key := yarn_beyond_us(scaling):
            raise fields.refusal(key, scaling[key], "none")
        # As in transformers, whose context is the one before it is stretched where nothing is said.
        context = fields.count("max_position_embeddings", 2048)
        scaling.setdefault("original_max_position_embeddings", context)
    return base, {"rope_type": kind, **scaling}


def _windows(fields: Fields, family: str, layers: int) -> list[int] | None:
    none = (
        fields.values.get("sliding_window", 4096) is None
    )  # null; where nothing is said, it is 4096
    if family == "mistral":
        return None if none else [fields.count("sliding_window", 4096)] * layers
    if family == "llama" or none or not fields.get("use_sliding_window", False):
        return None
    window, first = fields.count("sliding_window", 4096), fields.count("max_window_layers", 28)
    kinds = fields.strings("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(layers)
    ]
    unknown = sorted(set(kinds) - {"sliding_attention", "full_attention"})
    if unknown:
        raise fields.refusal("layer_types", unknown[0], "sliding_attention and full_attention")
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def family_for(config: ModelConfig, caller: str = "export_hf") -> str:
    """The family of Hugging Face that computes what `config` says.

    ValueError, which begins with `caller`, if there is none.
    """
    try:
        return _family_for(config)
    except ValueError as error:
        raise ValueError(f"{caller}: {error}") from None


def _family_for(config: ModelConfig) -> str:
    if config.position == "learned" and config.norm == "layer_norm":
        _only("GPT-2", config, bias=True, qkv_bias=True, qk_norm=False, windows=None,
              kv_heads=config.heads, head_width=config.width // config.heads)  # fmt: skip
        if config.gated:
            raise _nothing_like("activation", config.activation, "GPT-2", "one without a gate")
        return "gpt2"
    _only("Llama", config, position="rope", norm="rms_norm")
    if not config.gated:
        raise _nothing_like("activation", config.activation, "Llama", "one with a gate")
    if len({window for window in config.windows or () if window}) > 1:
        raise _nothing_like("windows", config.windows, "Qwen and Mistral", "windows of one size")
    if config.qk_norm:
        _only("Qwen3", config, bias=False, qkv_bias=False)
        return "qwen3"
    if config.qkv_bias and not config.bias:
        return "qwen2"
    if config.windows:
        _only("Mistral", config, bias=False, qkv_bias=False)
        if 0 in config.windows:
            raise _nothing_like("windows", config.windows, "Mistral", "one in every layer")
        return "mistral"
    _only("Llama", config, qkv_bias=config.bias)
    return "llama"


def _only(model: str, config: ModelConfig, **wanted: Any) -> None:
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise _nothing_like(name, getattr(config, name), model, repr(value))


def _nothing_like(name: str, value: Any, model: str, expected: str) -> ValueError:
    return ValueError(
        f"{name} is {value!r}, and transformers has no such model; {model} has {expected}"
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json of Hugging Face that computes what `config` says."""
    family = family_for(config)
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]], "model_type": family, "dtype": "float32",
    }  # fmt: skip
    common = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tied}
    if family == "gpt2":
        act = {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation)
        return {
            **values, **common, "n_positions": config.context, "n_layer": config.layers,
            "n_embd": config.width, "n_head": config.heads, "n_inner": config.ffn_width,
            "layer_norm_epsilon": config.norm_eps, "activation_function": act,
            "resid_pdrop": config.dropout, "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
        }  # fmt: skip
    values = {
        **values, **common, "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers, "hidden_size": config.width,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width, "intermediate_size": config.ffn_width,
        "rms_norm_eps": config.norm_eps, "attention_dropout": config.dropout,
        "hidden_act": next(act for act, ours in _GATED.items() if ours == config.activation),
        # Both as transformers 4 and as 5 have it.
        "rope_theta": config.rope_base, "rope_scaling": config.rope_scaling,
        "rope_parameters": {
            "rope_theta": config.rope_base, "rope_type": "default", **(config.rope_scaling or {}),
        },
    }  # fmt: skip
    if family == "llama":
        return {**values, "attention_bias": config.bias, "mlp_bias": config.bias}
    if family == "mistral" and config.windows:
        return {**values, "sliding_window": config.windows[0]}
    if family == "qwen3":
        values["attention_bias"] = False
    if config.windows is None:
        return {**values, "use_sliding_window": False}
    kinds = ["sliding_attention" if window else "full_attention" for window in config.windows]
    return {
        **values, "use_sliding_window": True, "sliding_window": max(config.windows),
        "layer_types": kinds, "max_window_layers": kinds.index("sliding_attention"),
    }  # fmt: skip


def half_split(
    config: ModelConfig, weights: dict[str, Tensor], *, back: bool = False
) -> dict[str, Tensor]:
    """Weights of a model with interleaved RoPE as the same model in halves has them, or `back`.

    `weights` are by our names. Pairs (2i, 2i + 1) of a head become (i, i + D / 2).
    """
    D = config.head_width
    turned = (config.heads + config.kv_heads) * D
    result = dict(weights)
    for name, value in weights.items():
        if ".attention.qkv." in name:
            parts = (half_split_rows(value[:turned], D, back=back), value[turned:])
            result[name] = torch.cat(parts)
        elif ".query_norm." in name or ".key_norm." in name:
            result[name] = half_split_rows(value, D, back=back)
    return result


def half_split_rows(rows: Tensor, D: int, *, back: bool = False) -> Tensor:
    """`half_split` of the rows [n D, ...] of n heads that turn."""
    order = torch.arange(D).view(*((2, D // 2) if back else (D // 2, 2))).T.flatten()
    return rows.view(-1, D, *rows.shape[1:])[:, order].reshape(rows.shape)
