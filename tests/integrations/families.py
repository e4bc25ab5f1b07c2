"""Small random models of every family that `patch` knows."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

_DECODER = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_ENCODER = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_GPT2 = {
    "vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0.0,
    "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip

DECODERS = {
    "gpt2": ("GPT2Config", _GPT2),
    "gpt2-scaled": ("GPT2Config", {**_GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "llama": ("LlamaConfig", _DECODER),
    "llama-biased-tied": (
        "LlamaConfig",
        {**_DECODER, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama3-rope": ("LlamaConfig", {**_DECODER, "rope_parameters": _LLAMA3_ROPE}),
    "mistral": ("MistralConfig", {**_DECODER, "sliding_window": 5}),
    "mistral-full": ("MistralConfig", {**_DECODER, "sliding_window": None}),
    "qwen2": ("Qwen2Config", _DECODER),
    "qwen2-window": (
        "Qwen2Config",
        {**_DECODER, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {**_DECODER, "head_dim": 24}),
    "gemma": ("GemmaConfig", {**_DECODER, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**_DECODER, "head_dim": 16, "sliding_window": 5}),
}
ENCODERS = {
    "bert": ("BertConfig", _ENCODER),
    "roberta": ("RobertaConfig", {**_ENCODER, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBertConfig",
        {
            "vocab_size": 97, "dim": 64, "hidden_dim": 112, "n_layers": 2, "n_heads": 4,
            "max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0,
        },
    ),
}  # fmt: skip
T5 = {
    "t5": ("T5Config", {"feed_forward_proj": "relu"}),
    "t5-gated": ("T5Config", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
_T5 = {
    "vocab_size": 97, "d_model": 64, "d_kv": 16, "d_ff": 112, "num_layers": 2, "num_heads": 4,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip


def make(family: str) -> torch.nn.Module:
    """A model with random weights, eager attention, in training mode: the one to be compared with."""
    torch.manual_seed(len(family))
    name, fields = (DECODERS | ENCODERS | T5)[family]
    if family in DECODERS:
        kind = transformers.AutoModelForCausalLM
    elif family in T5:
        kind, fields = transformers.AutoModelForSeq2SeqLM, {**_T5, **fields}
    else:
        kind = transformers.AutoModelForMaskedLM
    config = getattr(transformers, name)(**fields)
    model = kind.from_config(config, attn_implementation="eager").train()
    for parameter in model.parameters():  # no bias stays 0, no norm 1
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def batch(padded: bool = False, left: bool = True) -> dict[str, torch.Tensor]:
    """Rows of 17 tokens; `padded` leaves out the last 3 of one and, if `left`, the first 4 of another."""
    draw = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 97, (3, 17), generator=draw)
    labels = tokens.clone()
    labels[0, 5] = -100
    if not padded:
        return {"input_ids": tokens, "labels": labels}
    mask = torch.ones_like(tokens)
    mask[1, : 4 if left else 0] = 0
    mask[2, -3:] = 0
    labels[mask == 0] = -100
    labels[1, 4] = -100  # it would be guessed from a token that is none
    return {"input_ids": tokens, "labels": labels, "attention_mask": mask}


def packed_batch() -> dict[str, torch.Tensor]:
    """Two rows of 20 tokens that hold 3 and 2 sequences, told apart by their positions."""
    draw = torch.Generator().manual_seed(8)
    tokens = torch.randint(3, 97, (2, 20), generator=draw)
    rows = [(7, 1, 12), (15, 5)]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    labels = torch.where(positions == 0, -100, tokens)
    return {"input_ids": tokens, "labels": labels, "position_ids": positions}
