"""The C++ tokenizer of Llama 2's and Mistral's kind: as the `tokenizers` library, and as SentencePiece."""

from __future__ import annotations

import json
import random
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers import pre_tokenizers as pre

from fusedlm import _core
from fusedlm.errors import CorruptFileError
from fusedlm.models.gguf import load_tokenizer
from tests.support.gguf_files import write_metadata
from tests.support.tokenizers import (
    MARK,
    TEXTS,
    plays,
    random_texts,
    scored,
    sentence_piece,
)

EDGES = (
    "", " ", "  ", " a", "a ", "\n", " \n a", MARK, f"{MARK}a {MARK}", "<s>", "<s>a", "<s> a</s>b <unk>x",
    "a<s>", "a <s> b", "<0x41>", "\x00", "</s></s>",
)  # fmt: skip
LONG = ("a" * 100_000, "the" * 33_000, " " * 100_000, "é" * 50_000, "👍" * 25_000, "\n" * 100_000)


@cache
def llama2() -> Tokenizer:
    return sentence_piece(plays()[:60_000], *TEXTS * 3)


def changed(**members: Any) -> Tokenizer:
    """`llama2` with other members of its tokenizer.json."""
    return Tokenizer.from_str(json.dumps({**json.loads(llama2().to_str()), **members}))


def metaspace(scheme: str, split: bool) -> Tokenizer:
    """How newer files have it: no normalizer."""
    step = pre.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer = changed(normalizer=None)
    tokenizer.pre_tokenizer = step
    return tokenizer


def saved(tokenizer: Tokenizer, folder: Path) -> _core.Tokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return _core.Tokenizer.load(str(folder))


def streamed(tokenizer: _core.Tokenizer, ids: list[int], skip_special: bool) -> bytes:
    text = _core.TextStream(tokenizer, skip_special)
    return b"".join(text.add([token]) for token in ids) + text.finish()


def assert_same(ours: _core.Tokenizer, theirs: Tokenizer, text: str) -> None:
    for special in (True, False):
        theirs.encode_special_tokens = not special
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special) == expected, repr(text[:200])
        decoded = theirs.decode(expected, skip_special_tokens=special)
        assert ours.decode(expected, special).decode() == decoded, repr(text[:200])
        assert streamed(ours, expected, special).decode() == decoded, repr(text[:200])


KINDS = {
    "llama2": llama2,
    "first": lambda: metaspace("first", split=False),
    "always": lambda: metaspace("always", split=False),
    "never": lambda: metaspace("never", split=False),
    "always, in words": lambda: metaspace("always", split=True),
    "first, in words": lambda: metaspace("first", split=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_library_give_its_ids_and_texts(kind: str, tmp_path: Path) -> None:
    theirs = KINDS[kind]()
    ours = saved(theirs, tmp_path)
    assert ours.bos_id == theirs.token_to_id("<s>") and ours.vocab_size == theirs.get_vocab_size()
    count = 1000 if kind in ("llama2", "first") else 100
    for text in (*TEXTS, *EDGES, "".join(TEXTS), plays()[:5000], *random_texts(count, seed=5)):
        assert_same(ours, theirs, text)


@pytest.mark.parametrize("kind", ["llama2", "always, in words"])
def test_long_words_take_well_under_a_second(kind: str, tmp_path: Path) -> None:
    theirs = KINDS[kind]()
    ours = saved(theirs, tmp_path)
    for text in LONG:
        start = time.process_time()
        ids = ours.encode(text)
        assert time.process_time() - start < 1
        assert ids == theirs.encode(text, add_special_tokens=False).ids


def test_added_tokens_are_found_before_or_after_spaces_are_marked(tmp_path: Path) -> None:
    for theirs in (changed(), metaspace("first", split=False)):
        theirs.add_special_tokens(
            [AddedToken("<|l|>", lstrip=True), AddedToken("<|r|>", rstrip=True)]
        )
        theirs.add_tokens([AddedToken("<|n|>", normalized=True), "of the"])
        ours = saved(theirs, tmp_path)
        chance = random.Random(7)
        pieces = [" ", "  ", "<|l|>", "<|r|>", "<|n|>", "of the", "a", "thou ", "<s>", "\n", MARK]
        for _ in range(500):
            assert_same(ours, theirs, "".join(chance.choices(pieces, k=chance.randrange(1, 12))))


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("fallback", [False, True])
def test_unknown_characters_become_bytes_or_unknowns_as_in_the_library(
    fuse: bool, fallback: bool, tmp_path: Path
) -> None:
    model = json.loads(llama2().to_str())["model"] | {"fuse_unk": fuse, "byte_fallback": fallback}
    # Some characters have no token of their own, others not even all their bytes.
    vocab = {t: i for t, i in model["vocab"].items() if t not in ("<0x8D>", "<0xF0>")}
    theirs = changed(model={**model, "vocab": vocab})
    ours = saved(theirs, tmp_path)
    for text in (*TEXTS, *EDGES, *random_texts(200, seed=6)):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, repr(text)


def test_whole_words_are_taken_with_ignore_merges(tmp_path: Path) -> None:
    model = json.loads(llama2().to_str())["model"]
    vocab = {**model["vocab"], f"{MARK}Zephyrs": len(model["vocab"])}
    theirs = changed(model={**model, "vocab": vocab, "ignore_merges": True})
    ours = saved(theirs, tmp_path)
    assert len(ours.encode("Zephyrs")) == 1
    assert_same(ours, theirs, "Zephyrs")
    assert_same(ours, theirs, "Zephyrs Zephyrs")


def test_bytes_that_are_no_text_become_byte_tokens_and_come_back(tmp_path: Path) -> None:
    ours = saved(llama2(), tmp_path)
    # pybind11 takes bytes for std::string as they are.
    text = b"ab\xff\xc3 \xe4\xbd"
    ids = ours.encode(text)
    assert [ours.id_of(f"<0x{byte:02X}>") for byte in (0xE4, 0xBD)] == ids[-2:]
    assert ours.decode(ids) == text and streamed(ours, ids, True) == text


def test_a_stream_is_whole_characters_and_keeps_the_space_behind_a_prompt(tmp_path: Path) -> None:
    theirs = llama2()
    ours = saved(theirs, tmp_path)
    for text in (*TEXTS, *random_texts(100, seed=8)):
        ids = ours.encode(text, False)
        stream = _core.TextStream(ours)
        pieces = [stream.add([token]).decode() for token in ids]
        assert "".join(pieces) == text.replace(MARK, " ") and stream.finish() == b""
    prompt = ours.encode("the king")
    answer = ours.encode("the king and")[len(prompt) :]
    stream = _core.TextStream(ours)
    stream.add(prompt)
    assert stream.add(answer) == b" and"


# GGUF


def rule(metadata: dict[str, Any]) -> Any:
    """SentencePiece's rule, one join after the other: ids of a text between special tokens."""
    tokens, scores, types = (
        metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")
    )
    ids = {token: i for i, token in enumerate(tokens)}
    score_of = {t: s for t, s, kind in zip(tokens, scores, types, strict=True) if kind in (1, 4, 5)}

    def encode(text: str) -> list[int]:
        if not text:
            return []
        parts = list((" " + text).replace(" ", MARK))
        while True:
            joins = [
                (-score_of[a + b], at)
                for at, (a, b) in enumerate(pairwise(parts))
                if a + b in score_of
            ]
            if not joins:
                break
            at = min(joins)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found = []
        for part in parts:
            found += [ids[part]] if part in ids else [ids[f"<0x{b:02X}>"] for b in part.encode()]
        return found

    return encode


@pytest.mark.parametrize("ties", [False, True])
def test_gguf_files_follow_sentencepieces_rule(ties: bool, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    metadata = scored(llama2())
    if ties:  # many tokens of one score: where they stand decides
        metadata["tokenizer.ggml.scores"] = [s // 300 for s in metadata["tokenizer.ggml.scores"]]
    ours = _core.Tokenizer.load(str(write_metadata(tmp_path / "m.gguf", metadata)))
    assert ours.bos_id == 1
    expected = rule(metadata)
    plain = [t for t in random_texts(1000, seed=9) if "<s>" not in t and "s>" not in t]
    for text in (*TEXTS, plays()[:300], *(t.replace("<unk>", "") for t in plain)):
        assert ours.encode(text) == expected(text), repr(text)
        assert streamed(ours, ours.encode(text), True).decode() == text.replace(MARK, " ")


@pytest.mark.parametrize("more", [{}, {"add_space_prefix": False, "add_bos_token": False}])
def test_gguf_files_give_the_ids_that_python_reads_from_them(more: dict, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    metadata = scored(llama2()) | {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    path = write_metadata(tmp_path / "m.gguf", metadata)
    ours, theirs = _core.Tokenizer.load(str(path)), load_tokenizer(path)[0]
    assert ours.bos_id == (None if more else 1)
    for text in (*TEXTS, *EDGES, plays()[:5000], *random_texts(200, seed=10)):
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids).decode() == theirs.decode(ids), repr(text)
    for text in LONG:
        start = time.process_time()
        ours.encode(text)
        assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "members, named",
    [
        ({"normalizer": {"type": "Prepend", "prepend": MARK}}, "leaves spaces"),
        ({"normalizer": {"type": "Prepend", "prepend": "x"}}, 'Prepend of "x"'),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": " "}, "content": MARK}}, "regular"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": MARK}}, '"a" by'),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre-tokenizer that does not go with BPE"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "does not go with BPE"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, 'Metaspace of "_"'),
        ({"decoder": {"type": "ByteLevel"}}, "decoder of type ByteLevel"),
        ({"decoder": {"type": "Fuse"}}, "leaves U\\+2581"),
        ({"decoder": {"type": "Replace", "pattern": {"String": MARK}, "content": " "}}, "byte_fallback"),
    ],
)  # fmt: skip
def test_what_differs_is_refused_by_name(members: dict, named: str, tmp_path: Path) -> None:
    described = json.loads(llama2().to_str()) | members
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(NotImplementedError, match=named):
        _core.Tokenizer.load(str(tmp_path))


def test_a_decoder_in_another_order_is_refused(tmp_path: Path) -> None:
    described = json.loads(llama2().to_str())
    replace, bytes_, fuse, strip = described["decoder"]["decoders"]
    for order, named in (
        ([fuse, replace, bytes_], "Replace at this place"),
        ([replace, bytes_, strip], "strips each token"),
        ([replace, bytes_, fuse, {**strip, "start": 2}], "more than one space"),
    ):
        described["decoder"]["decoders"] = order
        (tmp_path / "tokenizer.json").write_text(json.dumps(described))
        with pytest.raises(NotImplementedError, match=named):
            _core.Tokenizer.load(str(tmp_path))


def test_a_metaspace_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    step = {"type": "Metaspace", "replacement": MARK, "split": False}
    for more, named in (
        ({"prepend_scheme": "last"}, "last.*first, always or never"),
        ({"prepend_scheme": "always", "add_prefix_space": False}, "add_prefix_space"),
    ):
        described = json.loads(llama2().to_str()) | {"pre_tokenizer": step | more}
        (tmp_path / "tokenizer.json").write_text(json.dumps(described))
        with pytest.raises(CorruptFileError, match=named):
            _core.Tokenizer.load(str(tmp_path))
