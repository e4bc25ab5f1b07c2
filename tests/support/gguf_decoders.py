"""Decoders of every kind that GGUF has a name for."""

from __future__ import annotations

import torch

from fusedlm.models import Decoder, ModelConfig

KINDS = ["gpt2", "llama", "tied", "interleaved", "qwen2", "qwen3", "linear", "llama3", "yarn"]
SHAPES = {"layers": 2, "width": 64, "heads": 4, "context": 32}


def model_of(kind: str, vocab_size: int, **fields) -> Decoder:
    torch.manual_seed(0)
    shapes = SHAPES | {"vocab_size": vocab_size, "ffn_width": 256} | fields
    if kind == "gpt2":
        return Decoder(ModelConfig.gpt2(**shapes)).eval()
    kinds = {
        "llama": {}, "tied": {"tied": True}, "interleaved": {"rope_interleaved": True},
        "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True, "head_width": 32},
        "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "yarn": {"rope_base": 50.0, "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
            "beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.25}},
        "llama3": {"head_width": 64, "rope_base": 500000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}},
    }  # fmt: skip
    return Decoder(ModelConfig.llama(**{**shapes, "kv_heads": 2, **kinds[kind]})).eval()
