"""Tokenizers from the metadata of a GGUF file: byte-level BPE, SentencePiece's BPE of Llama 2, WordPiece.

A file names the pattern that cuts text into words ("tokenizer.ggml.pre") and has tokens and merges;
the patterns themselves are those of the models' own tokenizers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError

from .gguf_word_piece import word_piece
from .huggingface import Fields

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "qwen2": _QWEN2, "tekken": _TEKKEN,
}  # fmt: skip
# Of these llama.cpp knows what the file need not say: a whole word that is a token is one, whatever the
# merges say, and a text begins with bos.
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")
NORMALIZERS = {"qwen2": {"type": "NFC"}}  # as tokenizer.json describes it; others have none
_DIGITS_ALONE = ("smollm", "starcoder", "command-r", "refact")  # then as GPT-2
_PRE, _DEFAULT = "tokenizer.ggml.pre", "default"  # of files from before there was this field: GPT-2
KNOWN = ("gpt-2", _DEFAULT, *_DIGITS_ALONE, *PATTERNS)
# Whatever the file says of eos: models that chat end an answer by one of these and a text by another.
_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>")
_CLASS = "PreTrainedTokenizerFast"  # of transformers, for folders that are written from it
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type


def build_tokenizer(path: Path, metadata: dict[str, Any]) -> Tokenizer | None:
    """None where the file has no tokens; NotImplementedError for a kind or pattern not known."""
    fields = Fields(path, metadata)
    if fields.get("tokenizer.ggml.tokens") is None:
        return None
    tokens = fields.strings("tokenizer.ggml.tokens")
    kind = fields.need("tokenizer.ggml.model")
    if kind == "bert":
        inner, special = word_piece(fields, tokens)
        return Tokenizer(inner, {"tokenizer_class": _CLASS, **special})
    types = _numbers(fields, "tokenizer.ggml.token_type", len(tokens), [NORMAL] * len(tokens))
    if kind == "gpt2":
        inner = _byte_level(fields, tokens)
    elif kind == "llama":
        inner = _sentence_piece(fields, tokens, types)
    else:
        raise fields.refusal("tokenizer.ggml.model", kind, "gpt2, llama or bert")
    added = [
        AddedToken(token, special=type_ == CONTROL, normalized=False)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (CONTROL, USER_DEFINED) or (type_ == UNKNOWN and kind == "llama")
    ]
    inner.add_tokens(added)
    special = _special(fields, tokens)
    starts = kind == "llama" or fields.get(_PRE) in _WHOLE_WORDS
    _begin_and_end(inner, fields, special, starts=starts)
    settings = {"tokenizer_class": _CLASS, **special}
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    ends = [i for i, type_ in enumerate(types) if type_ == CONTROL and tokens[i] in _ENDS]
    return Tokenizer(inner, settings, ends)


def _numbers(fields: Fields, name: str, count: int, default: list[int] | None = None) -> list[Any]:
    """One number for each token."""
    values = fields.need(name) if default is None else fields.get(name, default)
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        raise CorruptFileError(fields.file, f"{name} is no list of numbers")
    if len(values) != count:
        raise CorruptFileError(fields.file, f"{name} has {len(values)} numbers for {count} tokens")
    return values


def _byte_level(fields: Fields, tokens: list[str]) -> tokenizers.Tokenizer:
    pre = fields.get(_PRE, _DEFAULT)
    if pre not in KNOWN:
        raise fields.refusal(_PRE, pre, f"one of {', '.join(KNOWN)}")
    # Pairs, or else what BPE refuses.
    merges: list[Any] = [
        tuple(merge.split(" ")) for merge in fields.strings("tokenizer.ggml.merges")
    ]
    vocab = {token: index for index, token in enumerate(tokens)}
    try:
        model = models.BPE(vocab, merges, ignore_merges=pre in _WHOLE_WORDS)
    except Exception as error:  # the library raises bare Exception
        raise CorruptFileError(fields.file, f"tokenizer.ggml.merges: {error}") from error
    inner = tokenizers.Tokenizer(model)
    whole = pre in PATTERNS
    first = (
        [pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated")] if whole
        else [pre_tokenizers.Digits(individual_digits=True)] if pre in _DIGITS_ALONE else []
    )  # fmt: skip
    blank = bool(fields.get("tokenizer.ggml.add_space_prefix", False))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=blank and not whole, use_regex=not whole)
    inner.pre_tokenizer = pre_tokenizers.Sequence([*first, bytes_]) if first else bytes_
    changes: list[Any] = [normalizers.NFC()] if pre == "qwen2" else []
    if blank and whole:  # before the whole text, which ByteLevel behind the pattern does not see
        once = normalizers.Replace(Regex(r"\A  "), " ")  # where there is one already
        changes += [normalizers.Prepend(" "), once]
    if changes:
        inner.normalizer = changes[0] if len(changes) == 1 else normalizers.Sequence(changes)
    inner.decoder = decoders.ByteLevel()
    return inner


def _sentence_piece(fields: Fields, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    """SentencePiece merges the pair whose union scores highest; ranked, its unions are BPE's merges."""
    vocab = {token: index for index, token in enumerate(tokens)}
    scores = _numbers(fields, "tokenizer.ggml.scores", len(tokens))
    normal = [i for i, type_ in enumerate(types) if type_ not in (UNKNOWN, CONTROL, BYTE)]
    merges = []
    for index in normal:
        token = tokens[index]
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [(-scores[index], index, *h) for h in halves if h[0] in vocab and h[1] in vocab]
    merges.sort(key=lambda m: (m[0], vocab[m[2]], vocab[m[3]]))
    unknown = next((t for t, type_ in zip(tokens, types, strict=True) if type_ == UNKNOWN), None)
    inner = tokenizers.Tokenizer(
        models.BPE(
            vocab, [m[2:] for m in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    inner.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    )
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return inner


def _special(fields: Fields, tokens: list[str]) -> dict[str, str]:
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    special = {}
    for theirs, ours in names.items():
        index = fields.get(f"tokenizer.ggml.{theirs}_token_id")
        if type(index) is int and 0 <= index < len(tokens):
            special[f"{ours}_token"] = tokens[index]
    return special


def _begin_and_end(
    inner: tokenizers.Tokenizer, fields: Fields, special: dict[str, str], *, starts: bool
) -> None:
    """What stands around a text: where the file says nothing it begins with bos if `starts`."""
    wanted = {
        "bos_token": fields.get("tokenizer.ggml.add_bos_token", starts),
        "eos_token": fields.get("tokenizer.ggml.add_eos_token", False),
    }
    around = {name: special[name] for name in wanted if wanted[name] and name in special}
    if not around:
        return
    begin, end = (f"{around[n]} " if n in around else "" for n in ("bos_token", "eos_token"))
    ids = [(token, inner.token_to_id(token)) for token in set(around.values())]
    inner.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{begin}$A {end}".strip(),
                pair=f"{begin}$A {end}{begin}$B {end}".strip(),
                special_tokens=ids,
            ),
        ]
    )
