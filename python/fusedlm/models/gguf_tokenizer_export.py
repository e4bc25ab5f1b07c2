"""Tokenizers into the metadata of a GGUF file: `gguf_tokenizer` reversed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusedlm.data.tokenizer import Tokenizer

from .gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    NORMALIZERS,
    PATTERNS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    build_tokenizer,
)

_REFUSED = (
    "GGUF has byte-level BPE in the ways of known models and the BPE of SentencePiece, and this"
    " tokenizer is another"
)


def write_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> str | None:
    """Adds it to a gguf.GGUFWriter. Of a kind that GGUF has not nothing is written; returns why."""
    described = json.loads(tokenizer.to_json())
    tokens, types = [f"[unused{i}]" for i in range(vocab_size)], [UNUSED] * vocab_size
    if described["model"].get("type") != "BPE":
        return _REFUSED
    for token, index in described["model"]["vocab"].items():
        tokens[index], types[index] = token, NORMAL
    for added in described.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    kind = _sentence_piece if described["model"].get("byte_fallback") else _byte_level
    add = kind(described, tokens, types)
    if add is None:
        return _REFUSED
    add(writer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    around = tokenizer.encode("a", add_special=True)
    for ours in ("bos", "eos", "unk", "pad"):
        index = tokenizer.token_id(tokenizer.special.get(f"{ours}_token", ""))
        index = tokenizer.eos_id if index is None and ours == "eos" else index
        if index is not None:
            getattr(writer, f"add_{ours}_token_id")(index)
            if ours in ("bos", "eos"):
                put = around[0 if ours == "bos" else -1] == index
                getattr(writer, f"add_add_{ours}_token")(put)
    if isinstance(template := tokenizer.settings.get("chat_template"), str):
        writer.add_chat_template(template)
    return None


def _byte_level(
    described: dict[str, Any], tokens: list[str], types: list[int]
) -> Callable[[Any], None] | None:
    """What adds the kind and its merges; None where it is none of those that GGUF names."""
    pre = _pattern_of(described)
    if pre is None or described.get("normalizer") != NORMALIZERS.get(pre):
        return None
    merges = [" ".join(_pair(merge)) for merge in described["model"]["merges"]]

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(merges)

    return add


def _sentence_piece(
    described: dict[str, Any], tokens: list[str], types: list[int]
) -> Callable[[Any], None] | None:
    """As `_byte_level`; scores are ranks of merges. Marks the unknown token and the bytes in `types`."""
    model = described["model"]
    for index, token in enumerate(tokens):
        if token == model.get("unk_token"):
            types[index] = UNKNOWN
        elif types[index] == NORMAL and len(token) == 6 and token[:3] == "<0x" and token[5] == ">":
            types[index] = BYTE
    scores = [0.0] * len(tokens)
    places = {token: index for index, token in enumerate(tokens)}
    rank = 0.0
    for merge in model["merges"]:
        joined = places["".join(_pair(merge))]
        if not scores[joined]:
            scores[joined] = rank = rank - 1.0
    # Pieces that nothing is merged into come last, as SentencePiece has its single characters.
    scores = [score or rank - 1.0 - i for i, score in enumerate(scores)]
    prefix = any(
        step.get("type") == "Prepend"
        for step in (described.get("normalizer") or {}).get("normalizers", ())
    )
    names = {"tokens": tokens, "token_type": types, "scores": scores, "add_space_prefix": prefix}
    if not _reads_the_same(described, {"model": "llama", **names}):
        return None

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(prefix)

    return add


def _reads_the_same(described: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Whether the tokenizer that a file with `fields` gives is the one described, but for what it
    puts around a text."""
    metadata = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    again = build_tokenizer(Path("new.gguf"), metadata)
    assert again is not None  # it has tokens
    return _ways(described) == _ways(json.loads(again.to_json()))


def _ways(described: dict[str, Any]) -> list[Any]:
    """All that tokens depend on. Pairs with one union have one score, so their order is nobody's."""
    model = described["model"]
    merges = [_pair(merge) for merge in model["merges"]]
    unions = ["".join(merge) for merge in merges]
    rank = {union: i for i, union in enumerate(dict.fromkeys(unions))}
    return [
        unions,
        sorted(merges, key=lambda merge: (rank["".join(merge)], merge)),
        *(model.get(name) for name in ("unk_token", "fuse_unk", "byte_fallback")),
        *(described.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")),
    ]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _pattern_of(described: dict[str, Any]) -> str | None:
    """Our name for how a tokenizer.json cuts text into words: `_byte_level` reversed."""
    first = described.get("pre_tokenizer") or {}
    steps = first.get("pretokenizers", [first])
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    kinds = [step["type"] for step in steps[:-1]]
    if not kinds and steps[-1].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits"] and steps[0]["individual_digits"] and steps[-1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split"] and not steps[-1].get("use_regex", True):
        found = steps[0]["pattern"].get("Regex")
        return next((name for name, pattern in PATTERNS.items() if pattern == found), None)
    return None
