"""The engine's tokenizer and Python's read one GGUF file alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusedlm import _core
from fusedlm.data.tokenizer import train_bpe
from fusedlm.models.gguf import load_tokenizer

gguf = pytest.importorskip("gguf")

TEXT = "To be, or not to be: it's 12345 questions, naïve café 你好\n\n  \tWE'LL see cafe\u0301"
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
BOTH = ("default", "gpt-2", "smollm", "qwen2", *LLAMA3)
BOS = "<|endoftext|>"


def write(path: Path, pre: str | None, **more: bool) -> Path:
    """A file with a tokenizer and nothing else; " Zephyr" is a token that no merges make."""
    described = json.loads(train_bpe(TEXT * 20, 400).to_json())["model"]
    tokens = sorted(described["vocab"], key=described["vocab"].get)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types[tokens.index(BOS)] = gguf.TokenType.CONTROL
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, "ĠZephyr"])
    writer.add_token_types([*types, gguf.TokenType.NORMAL])
    writer.add_token_merges([" ".join(merge) for merge in described["merges"]])
    writer.add_bos_token_id(tokens.index(BOS))
    for key, value in more.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("blank", [None, True, False])
@pytest.mark.parametrize("pre", [None, *BOTH])
def test_the_tokens_of_a_text(tmp_path, pre, blank):
    more = {} if blank is None else {"add_space_prefix": blank}
    file = write(tmp_path / "m.gguf", pre, **more)
    ours, theirs = load_tokenizer(file)[0], _core.Tokenizer.load(str(file))
    for text in (TEXT, " " + TEXT, f"a{BOS}b {BOS} c", "", " ", "12", "say Zephyr"):
        assert ours.encode(text) == theirs.encode(text), repr(text)
    assert (len(ours.encode(" Zephyr")) == 1) == (pre in LLAMA3)


@pytest.mark.parametrize(("said", "begins"), [(None, LLAMA3), (True, BOTH), (False, ())])
@pytest.mark.parametrize("pre", BOTH)
def test_the_token_that_begins_a_text(tmp_path, pre, said, begins):
    more = {} if said is None else {"add_bos_token": said}
    file = write(tmp_path / "m.gguf", pre, **more)
    ours, theirs = load_tokenizer(file)[0], _core.Tokenizer.load(str(file))
    bos = [ours.token_id(BOS)] if pre in begins else []
    assert theirs.bos_id == (bos[0] if bos else None)
    assert ours.encode("a b", add_special=True) == bos + ours.encode("a b")


def test_tekken_begins_a_text_unless_the_file_says_otherwise(tmp_path):  # Python's alone
    for more, begins in ({}, True), ({"add_bos_token": False}, False):
        ours = load_tokenizer(write(tmp_path / "m.gguf", "tekken", **more))[0]
        assert (ours.encode("a", add_special=True)[0] == ours.token_id(BOS)) is begins
