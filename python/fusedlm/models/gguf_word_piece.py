"""BERT's WordPiece from the metadata of a GGUF file.

There a token that begins a word has U+2581 before it and one that goes on has nothing, where BERT's
vocabulary has nothing and "##". Tokens in brackets are as they are: older files mark them no otherwise.
"""

from __future__ import annotations

from string import ascii_uppercase

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from fusedlm.errors import CorruptFileError

from .huggingface import Fields

_START, _INSIDE = "\u2581", "##"
# Name in tokenizer_config.json -> what the file may call it, and what BERT does.
_SPECIAL = {
    "cls_token": (("cls", "bos"), "[CLS]"), "sep_token": (("seperator", "eos"), "[SEP]"),
    "unk_token": (("unknown",), "[UNK]"), "pad_token": (("padding",), "[PAD]"),
    "mask_token": (("mask",), "[MASK]"),
}  # fmt: skip


def word_piece(fields: Fields, found: list[str]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer and its special tokens by name, of tokens as the file has them."""
    tokens = [_as_bert_has_it(token) for token in found]
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        raise CorruptFileError(fields.file, "tokenizer.ggml.tokens has a token twice")
    special = _special(fields, tokens)
    for name in ("cls_token", "sep_token", "unk_token"):
        if name not in special:
            raise CorruptFileError(fields.file, f"tokenizer.ggml.tokens has no {name}")
    inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=special["unk_token"]))
    # The file does not say it: only a vocabulary that tells cases apart has these.
    cased = all(letter in vocab for letter in ascii_uppercase)
    inner.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix=_INSIDE)
    first, last = special["cls_token"], special["sep_token"]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, vocab[token]) for token in (first, last)],
    )
    inner.add_special_tokens(sorted(set(special.values()), key=vocab.__getitem__))
    return inner, special


def _as_bert_has_it(token: str) -> str:
    if token.startswith(_START):
        return token.removeprefix(_START)
    return token if token[:1] == "[" and token[-1:] == "]" else _INSIDE + token


def _special(fields: Fields, tokens: list[str]) -> dict[str, str]:
    special = {}
    for name, (keys, usual) in _SPECIAL.items():
        ids = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in keys]
        known = [tokens[i] for i in ids if type(i) is int and 0 <= i < len(tokens)]
        if known or usual in tokens:
            special[name] = known[0] if known else usual
    return special
