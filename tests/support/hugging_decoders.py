"""Decoders of Hugging Face that we read: a config of each family, and of each thing that a config can ask for."""

from __future__ import annotations

GPT2 = {"vocab_size": 61, "n_positions": 48, "n_layer": 2, "n_embd": 32, "n_head": 4}
LLAMA = {
    "vocab_size": 61, "max_position_embeddings": 64, "num_hidden_layers": 2, "hidden_size": 32,
    "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 40, "head_dim": 8,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 300.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
# Name: (the class of transformers, its config).
CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2 untied, exact gelu, narrow": (
        "GPT2LMHeadModel",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 24},
    ),
    "gpt2 with relu": ("GPT2LMHeadModel", {**GPT2, "activation_function": "relu"}),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama 3: grouped heads, scaled rope, tied": (
        "LlamaForCausalLM",
        {
            **LLAMA, "num_key_value_heads": 2, "rope_parameters": LLAMA3,
            "tie_word_embeddings": True,
        },
    ),
    "llama with biases, wide heads, linear rope, gelu": (
        "LlamaForCausalLM",
        {
            **LLAMA, "num_key_value_heads": 1, "head_dim": 12, "attention_bias": True,
            "mlp_bias": True, "rope_parameters": LINEAR, "hidden_act": "gelu",
        },
    ),
    "qwen2": ("Qwen2ForCausalLM", {**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2 with a window in its last layer": (
        "Qwen2ForCausalLM",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen2 with yarn, all heads their own": ("Qwen2ForCausalLM", {**LLAMA, "rope_parameters": YARN}),
    "qwen2 with linear rope, wide heads, one of keys": (
        "Qwen2ForCausalLM",
        {**LLAMA, "num_key_value_heads": 1, "head_dim": 12, "rope_parameters": LINEAR},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        {**LLAMA, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
    ),
    "qwen3 with windows": (
        "Qwen3ForCausalLM",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ),
    "qwen3 with yarn of its own strength, untied": (
        "Qwen3ForCausalLM",
        {
            **LLAMA, "num_key_value_heads": 1,
            "rope_parameters": {**YARN, "attention_factor": 0.8, "beta_fast": 4.0, "beta_slow": 0.5},
        },
    ),
    "qwen3 with llama 3's rope": ("Qwen3ForCausalLM", {**LLAMA, "rope_parameters": LLAMA3}),
    "mistral tied, with linear rope": (
        "MistralForCausalLM",
        {
            **LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True,
            "rope_parameters": LINEAR, "sliding_window": None,
        },
    ),
    "mistral with yarn and a window": (
        "MistralForCausalLM", {**LLAMA, "sliding_window": 9, "rope_parameters": YARN},
    ),
    "mistral": ("MistralForCausalLM", {**LLAMA, "num_key_value_heads": 2, "sliding_window": 6}),
    "mistral without window": (
        "MistralForCausalLM", {**LLAMA, "sliding_window": None, "head_dim": 16},
    ),
}  # fmt: skip
