"""Decoders written as GGUF: what other readers find in the file, and that ours computes the same."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import tokenizers
import torch
from tokenizers import normalizers, pre_tokenizers
from typer.testing import CliRunner

from fusedlm import _core
from fusedlm.cli.app import app
from fusedlm.data.tokenizer import Tokenizer, train_bpe, train_chars
from fusedlm.models import Decoder, export_gguf, load, save
from fusedlm.models.gguf_tokenizer import PATTERNS, build_tokenizer
from tests.support.gguf_decoders import KINDS, model_of
from tests.support.sentence_pieces import sentence_pieces
from tests.support.small import spread_out

gguf = pytest.importorskip("gguf")

TEXT = "To be, or not to be, that is the question: 1234 naïve café 你好\n\n"


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXT * 20, 300)


@pytest.mark.parametrize("kind", KINDS)
def test_a_float32_file_has_the_same_logits(kind, tokenizer, tmp_path):
    model = model_of(kind, tokenizer.vocab_size)
    for parameter in model.parameters():  # biases and norms are not all 0 and 1
        torch.nn.init.normal_(parameter, std=0.3)
    export_gguf(model, tokenizer, tmp_path / "m.gguf", "float32")
    again, theirs = load(tmp_path / "m.gguf")
    ids = torch.tensor([tokenizer.encode(TEXT)[:32]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids), model(ids), rtol=1e-4, atol=1e-4)
    assert theirs.encode(TEXT) == tokenizer.encode(TEXT)
    assert theirs.eos_id == tokenizer.eos_id


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_window_is_kept_by_load_and_by_the_engine(kind, tmp_path):
    model = spread_out(model_of(kind, 60, windows=[5, 5]), 4.0)
    export_gguf(model, None, tmp_path / "m.gguf", "float32")
    again, _ = load(tmp_path / "m.gguf")
    assert again.config == model.config
    engine = _core.Engine(_core.Model.load(str(tmp_path / "m.gguf")), dtype="float32")
    ids = torch.randint(60, (1, 30), generator=torch.Generator().manual_seed(1))
    out = torch.empty(30, 60)
    engine.forward([(engine.open(), ids[0].tolist(), True)], out)
    with torch.no_grad():
        expected, loaded = model(ids)[0], again(ids)[0]
        blind = Decoder(replace(model.config, windows=None)).eval()
        blind.load_state_dict(model.state_dict())
        assert not torch.allclose(blind(ids)[0], expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(loaded, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q8_0", "q4_k", "q6_k", "bfloat16", "float16"])
def test_the_gguf_package_reads_every_format(format, tokenizer, tmp_path):
    model = model_of("tied", tokenizer.vocab_size)
    written = export_gguf(model, tokenizer, tmp_path / "m.gguf", format)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    down = tensors["blk.1.ffn_down.weight"]
    assert down.tensor_type.name.lower() in (
        format,
        {"bfloat16": "bf16", "float16": "f16"}.get(format),
    )
    found = torch.from_numpy(gguf.quants.dequantize(down.data, down.tensor_type)).view(64, 256)
    kept = model.state_dict()["blocks.1.ffn.down_weight"]
    assert (found - kept).norm() <= 0.1 * kept.norm()
    assert tensors["output_norm.weight"].tensor_type.name == "F32"
    assert set(written.formats) == set(tensors)
    narrow = {"q4_k": "q4_1", "q6_k": "q8_0"}.get(format)  # rows of 64 are no blocks of 256
    assert written.fallbacks.get("blk.0.attn_q.weight") == narrow
    if format.startswith("q4"):
        assert tensors["token_embd.weight"].tensor_type.name == "Q8_0"


def test_a_tokenizer_that_gguf_has_not_is_left_out_and_said(tmp_path):
    tokenizer = train_chars(TEXT)
    model = model_of("llama", tokenizer.vocab_size)
    assert "another" in export_gguf(model, tokenizer, tmp_path / "m.gguf").no_tokenizer
    assert load(tmp_path / "m.gguf")[1] is None


def with_normalizer(tokenizer: Tokenizer, normalizer) -> Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    inner.normalizer = normalizer
    return Tokenizer(inner)


@pytest.mark.parametrize("change", ["lower case", "no tags", "composed"])
def test_a_tokenizer_that_changes_the_text_first_is_left_out_and_said(change, tokenizer, tmp_path):
    changed = {
        "lower case": lambda: with_normalizer(tokenizer, normalizers.Lowercase()),
        "no tags": tokenizer.without_tags,
        "composed": lambda: with_normalizer(tokenizer, normalizers.NFC()),  # of Qwen2 alone
    }[change]()
    model = model_of("llama", tokenizer.vocab_size)
    assert "another" in export_gguf(model, changed, tmp_path / "m.gguf").no_tokenizer
    assert load(tmp_path / "m.gguf")[1] is None


def test_a_tokenizer_of_qwen2_keeps_its_composing(tokenizer, tmp_path):
    theirs = with_normalizer(tokenizer, normalizers.NFC())
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS["qwen2"]), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs._inner.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    model = model_of("qwen2", tokenizer.vocab_size)
    assert export_gguf(model, theirs, tmp_path / "m.gguf").no_tokenizer is None
    text = "cafe\u0301 " + TEXT
    assert load(tmp_path / "m.gguf")[1].encode(text) == theirs.encode(text)
    plain = Tokenizer(tokenizers.Tokenizer.from_str(theirs.to_json()))
    plain._inner.normalizer = None  # read again it would compose
    assert "another" in export_gguf(model, plain, tmp_path / "m.gguf").no_tokenizer


@pytest.mark.parametrize("prefix", [True, False])
def test_a_tokenizer_of_sentence_piece_is_kept(prefix, tmp_path):
    values = {**sentence_pieces(tmp_path)[1], "tokenizer.ggml.add_space_prefix": prefix}
    theirs = build_tokenizer(tmp_path / "theirs.gguf", values)
    model = model_of("llama", theirs.vocab_size + 28)  # padded to a round size
    assert export_gguf(model, theirs, tmp_path / "m.gguf").no_tokenizer is None
    read = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert read["tokenizer.ggml.model"].contents() == "llama"
    ours, compiled = load(tmp_path / "m.gguf")[1], _core.Tokenizer.load(str(tmp_path / "m.gguf"))
    for text in ("the sailors sing", TEXT, "quick  dogs, lazy é 你 fox"):
        assert ours.encode(text) == theirs.encode(text) == compiled.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.encode("the", add_special=True) == theirs.encode("the", add_special=True)
    assert (ours.eos_id, ours.special) == (theirs.eos_id, theirs.special)


@pytest.mark.parametrize("change", ["normalizer", "merges"])
def test_a_tokenizer_that_is_nearly_sentence_pieces_is_left_out_and_said(change, tmp_path):
    theirs = build_tokenizer(tmp_path / "theirs.gguf", sentence_pieces(tmp_path)[1])
    described = json.loads(theirs.to_json())
    if change == "normalizer":
        described["normalizer"] = {"type": "Lowercase"}
    else:  # SentencePiece knows every way to a token, BPE that was trained as such only one
        merges = described["model"]["merges"]
        unions = ["".join(merge) for merge in merges]
        del merges[next(i for i, union in enumerate(unions) if unions.count(union) > 1)]
    inner = tokenizers.Tokenizer.from_str(json.dumps(described))
    model = model_of("llama", theirs.vocab_size)
    written = export_gguf(model, Tokenizer(inner, theirs.settings), tmp_path / "m.gguf")
    assert "another" in written.no_tokenizer


def test_a_tokenizer_larger_than_the_model_is_refused_and_an_older_file_stays(tokenizer, tmp_path):
    (tmp_path / "m.gguf").write_text("old")
    words = rf"export_gguf: tokenizer has {tokenizer.vocab_size} tokens, .* vocab_size of 50"
    with pytest.raises(ValueError, match=words):
        export_gguf(model_of("llama", 50), tokenizer, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_text() == "old"


def test_without_the_package_it_says_what_writing_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(NotImplementedError, match=r"m\.gguf: writing GGUF needs the package gguf"):
        export_gguf(model_of("llama", 50), None, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"windows": [4, 0]}, r"windows is \[4, 0\], and GGUF has one window for all layers"),
        ({"windows": [4, 5]}, r"windows is \[4, 5\], and GGUF has one window for all layers"),
        ({"activation": "geglu"}, "activation"),
    ],
)
def test_what_gguf_cannot_say_is_refused_and_an_older_file_stays(fields, named, tmp_path):
    (tmp_path / "m.gguf").write_text("old")
    with pytest.raises(ValueError, match=f"export_gguf: {named}"):
        export_gguf(model_of("llama", 50, **fields), None, tmp_path / "m.gguf")
    broken = model_of("llama", 50)
    with torch.no_grad():
        broken.state_dict()["blocks.1.ffn.up_weight"][3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"blk.1.ffn_up.weight: quantize: x\[3\] holds NaN"):
        export_gguf(broken, None, tmp_path / "m.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_text() == "old"


def test_the_command_writes_and_checks(tokenizer, tmp_path):
    save(tmp_path / "model", model_of("llama", tokenizer.vocab_size), tokenizer)
    (tmp_path / "text.txt").write_text(TEXT * 10)
    arguments = ["quantize", str(tmp_path / "model"), str(tmp_path / "m.gguf"), "--format", "q4_k"]
    done = CliRunner().invoke(app, [*arguments, "--check", str(tmp_path / "text.txt")])
    assert done.exit_code == 0, done.output
    assert "bits a weight" in done.output and "matrices are q4_1" in done.output
    assert "perplexity" in done.output
    bad = CliRunner().invoke(app, ["quantize", str(tmp_path / "model"), str(tmp_path / "m.bin")])
    assert "expected a name that ends in .gguf" in str(bad.exception)
    bad = CliRunner().invoke(app, [*arguments[:3], "--format", "q3"])
    assert "format is 'q3', expected one of" in str(bad.exception)
