"""Small GGUF files; what writes them needs the package `gguf`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(
    path: Path,
    model,
    arch: str,
    metadata: dict | None = None,
    drop: Sequence[str] = (),
    extra: dict | None = None,
) -> Path:
    """`model` as llama.cpp's converter writes it: float32, and for Llama with turned rows."""
    import gguf

    config, weights = model.config, dict(model.state_dict())
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_base)
    for key, value in (metadata or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    plain = {
        "embedding.weight": "token_embd.weight", "embedding.position_weight": "position_embd.weight",
        "final_norm": "output_norm", "head": "output", "blocks": "blk",
        "attention_norm": "attn_norm", "attention.out": "attn_output",
        "attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm",
        "ffn.up_": "ffn_up.", "ffn.gate_": "ffn_gate.", "ffn.down_": "ffn_down.",
    }  # fmt: skip
    tensors = {}
    for name, value in weights.items():
        for ours, theirs in plain.items():
            name = name.replace(ours, theirs)
        if "attention.qkv" not in name or arch == "gpt2":
            tensors[name.replace("attention.qkv", "attn_qkv")] = value
            continue
        sizes = [n * config.head_width for n in (config.heads, config.kv_heads, config.kv_heads)]
        for letter, part in zip("qkv", value.split(sizes), strict=True):
            if arch == "llama" and letter != "v":
                halves = part.view(-1, 2, config.head_width // 2, *part.shape[1:])
                part = halves.swapaxes(1, 2).reshape(part.shape)
            tensors[name.replace("attention.qkv", f"attn_{letter}")] = part
    for name, value in {**tensors, **(extra or {})}.items():
        if name not in drop:
            writer.add_tensor(name, value.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_metadata(path: Path, metadata: dict[str, Any]) -> Path:
    """A GGUF file of metadata alone."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if value == []:
            writer.add_key_value(
                key, value, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.STRING
            )
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
