"""Fused forwards of transformers' feed-forward layers, attention layers and blocks; see layers.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fusedlm import ops
from fusedlm.ops.attention import takes_width

from .attention import attend_heads
from .layers import added_layer_norm, added_rms_norm
from .plain import Forward, is_plain

# Classes of activations, of transformers and torch -> (activation of ops.ffn plain, with a gate).
_SILU, _GELU, _TANH = (None, "swiglu"), ("gelu", "geglu"), ("gelu_tanh", "geglu_tanh")
_ACTIVATIONS = {
    "SiLUActivation": _SILU,
    "SiLU": _SILU,
    "GELUActivation": _GELU,
    "GELU": _GELU,
    "NewGELUActivation": _TANH,
    "GELUTanh": _TANH,
    "PytorchGELUTanh": _TANH,
    "ReLU": ("relu", None),
}


def activation_of(function: Any, gated: bool) -> str | None:
    """The name that `ops.ffn` has for an activation of transformers; None where it has none."""
    kind = type(function).__name__
    if kind in ("GELU", "GELUActivation") and getattr(function, "approximate", "none") != "none":
        return None
    return _ACTIVATIONS.get(kind, (None, None))[gated]


def gated_mlp(original: Forward, self: Any, x: Tensor) -> Tensor:
    """down(act(gate(x)) * up(x)) of Llama, Qwen, Mistral and Gemma."""
    activation = activation_of(self.act_fn, True)
    if activation is None or not is_plain(nn.Linear, self.gate_proj, self.up_proj, self.down_proj):
        return original(x)
    return _ffn(x, self.up_proj, self.down_proj, activation, gate=self.gate_proj)


def _ffn(x: Tensor, up: Any, down: Any, activation: str, gate: Any | None = None) -> Tensor:
    turned = type(up) is Conv1D
    up_weight, down_weight = (m.weight.t() if turned else m.weight for m in (up, down))
    return ops.ffn(
        x, up_weight, down_weight, up_bias=up.bias, down_bias=down.bias, activation=activation,
        gate_weight=None if gate is None else gate.weight,
        gate_bias=None if gate is None else gate.bias,
    )  # fmt: skip


def llama_attention(
    original: Callable[..., tuple[Tensor, None]], self: Any, hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None, cache: Any = None, past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of Llama, Qwen, Mistral and Gemma: rotary positions, grouped heads, no transposes."""
    cache = past_key_values if cache is None else cache
    if position_embeddings is None or not _attention_fits(
        self, hidden_states, position_embeddings, attention_mask, kwargs
    ):
        given = {} if cache is None else {"cache": cache}
        return original(
            hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask,
            **given, **kwargs,
        )  # fmt: skip
    B, T, _ = hidden_states.shape
    query, key, value = (
        ops.linear(hidden_states, m.weight, m.bias).view(B, T, -1, self.head_dim)
        for m in (self.q_proj, self.k_proj, self.v_proj)
    )
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    tables, positions = rope_rows(position_embeddings, B, T)
    query, key = (ops.rope(x, *tables, positions=positions) for x in (query, key))
    if cache is not None:
        key, value = (
            x.transpose(1, 2)
            for x in cache.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
        )
    out = attend_heads(
        self, query, key, value, attention_mask,
        dropout=self.attention_dropout if self.training else 0.0, scaling=self.scaling,
        is_causal=kwargs.get("is_causal"), window=getattr(self, "sliding_window", None)
        or _config_window(self), softcap=getattr(self, "attn_logit_softcapping", None),
    )  # fmt: skip
    return ops.linear(out.flatten(2), self.o_proj.weight, self.o_proj.bias), None


def _config_window(self: Any) -> int | None:
    """Mistral's layers read the window from the config; for the others it is the layer's."""
    window: int | None = (
        getattr(self.config, "sliding_window", None) if "Mistral" in type(self).__name__ else None
    )
    return window


def _attention_fits(
    self: Any, x: Tensor, position_embeddings: tuple[Tensor, Tensor], mask: Tensor | None,
    kwargs: dict[str, Any],
) -> bool:  # fmt: skip
    if kwargs.get("output_attentions") or not takes_width(x, self.head_dim):
        return False
    cos = position_embeddings[0]
    if cos.shape[-1] != self.head_dim or (mask is not None and mask.requires_grad):
        return False
    return is_plain(nn.Linear, self.q_proj, self.k_proj, self.v_proj, self.o_proj)


def rope_rows(
    position_embeddings: tuple[Tensor, Tensor], B: int, T: int
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Tables of `ops.rope` and the rows of them for each token, from cos and sin [1 or B, T, D], whose
    halves are the same."""
    cos, sin = (
        x[..., : x.shape[-1] // 2].reshape(-1, x.shape[-1] // 2).float().contiguous()
        for x in position_embeddings
    )
    rows = torch.arange(cos.shape[0], device=cos.device).view(-1, T)
    return (cos, sin), rows.expand(B, T)


def llama_block(
    original: Forward, self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """norm, attention, add + norm, feed-forward, add."""
    if args:
        return original(hidden_states, *args, **kwargs)
    branch, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
    x, stream = added_rms_norm(self.post_attention_layernorm, branch, hidden_states)
    out: Tensor = stream + self.mlp(x)
    return out


def gpt2_mlp(original: Forward, self: Any, hidden_states: Tensor) -> Tensor:
    activation = activation_of(self.act, False)
    if activation is None or not is_plain(Conv1D, self.c_fc, self.c_proj):
        return original(hidden_states)
    out: Tensor = self.dropout(_ffn(hidden_states, self.c_fc, self.c_proj, activation))
    return out


def gpt2_block(
    original: Forward, self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    if args or kwargs.get("encoder_hidden_states") is not None:
        return original(hidden_states, *args, **kwargs)
    for unused in ("encoder_hidden_states", "encoder_attention_mask"):
        kwargs.pop(unused, None)
    branch, _ = self.attn(self.ln_1(hidden_states), **kwargs)
    x, stream = added_layer_norm(self.ln_2, branch, hidden_states)
    out: Tensor = stream + self.mlp(x)
    return out


def bert_output(
    original: Forward, self: Any, hidden_states: Tensor, input_tensor: Tensor
) -> Tensor:
    """norm(dropout(dense(x)) + input), which ends both halves of a post-norm layer."""
    branch = self.dropout(self.dense(hidden_states))
    return added_layer_norm(self.LayerNorm, branch, input_tensor)[0]


def bert_feed_forward(original: Forward, self: Any, attention_output: Tensor) -> Tensor:
    up, down = self.intermediate.dense, self.output.dense
    activation = activation_of(self.intermediate.intermediate_act_fn, False)
    if activation is None or not is_plain(nn.Linear, up, down):
        return original(attention_output)
    branch = self.output.dropout(_ffn(attention_output, up, down, activation))
    return added_layer_norm(self.output.LayerNorm, branch, attention_output)[0]


def distilbert_ffn(original: Forward, self: Any, input: Tensor) -> Tensor:
    activation = activation_of(self.activation, False)
    if activation is None or not is_plain(nn.Linear, self.lin1, self.lin2):
        return original(input)
    out: Tensor = self.dropout(_ffn(input, self.lin1, self.lin2, activation))
    return out


def distilbert_block(
    original: Forward, self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:  # fmt: skip
    branch, _ = self.attention(hidden_states, attention_mask=attention_mask, **kwargs)
    x, _ = added_layer_norm(self.sa_layer_norm, branch, hidden_states)
    return added_layer_norm(self.output_layer_norm, self.ffn(x), x)[0]


def t5_ffn(original: Forward, self: Any, hidden_states: Tensor) -> Tensor:
    gated = hasattr(self, "wi_0")
    activation = activation_of(self.act, gated)
    inner = (self.wi_0, self.wi_1) if gated else (self.wi,)
    dropped = self.training and self.dropout.p > 0  # between the products: not fused
    same = hidden_states.dtype == self.wo.weight.dtype
    if activation is None or dropped or not same or not is_plain(nn.Linear, *inner, self.wo):
        return original(hidden_states)
    return _ffn(hidden_states, inner[-1], self.wo, activation, gate=self.wi_0 if gated else None)
