"""Byte-level BPE and character tokenizers, on the `tokenizers` library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from fusedlm.errors import CorruptFileError

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
_BYTES = 256


class Tokenizer:
    """Text to token ids and back; `eos_id` is the end-of-text token, or None.

    `settings` are what Hugging Face's tokenizer_config.json holds (special tokens by name, the chat
    template), and `end_ids` all tokens that end a text; both are kept in model folders.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, settings: Mapping[str, Any] | None = None,
        end_ids: Iterable[int] = (),
    ) -> None:  # fmt: skip
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.settings = dict(settings or {})
        self.special = _special_tokens(self.settings)
        self.eos_id: int | None = inner.token_to_id(self.special.get("eos_token", END_OF_TEXT))
        ends = [*([] if self.eos_id is None else [self.eos_id]), *end_ids]
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """`add_special`: with what the tokenizer puts around a text, a token of its beginning say."""
        return self._inner.encode(text, add_special_tokens=add_special).ids

    def token_id(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    def token(self, token_id: int) -> str | None:
        """The entry of the vocabulary itself, as the model's files write it; None for an unknown id."""
        return self._inner.id_to_token(token_id)

    def to_json(self) -> str:
        """What tokenizer.json holds."""
        return self._inner.to_str()

    def encode_batch(
        self, texts: Sequence[str], *, add_special: bool = False, longest: int | None = None
    ) -> list[list[int]]:
        """`longest` cuts what has more tokens, those that `add_special` adds included."""
        found = self._inner.encode_batch(list(texts), add_special_tokens=add_special)
        added = self._inner.num_special_tokens_to_add(False) if add_special else 0
        if longest is not None and longest <= added:
            raise ValueError(f"Tokenizer: longest is {longest}, expected at least {added + 1}")
        return [
            self._cut(text, add_special, longest - added)
            if longest is not None and len(encoded) > longest
            else encoded.ids
            for text, encoded in zip(texts, found, strict=True)
        ]

    def _cut(self, text: str, add_special: bool, length: int) -> list[int]:
        """Cut before the tokens at the end are added, so that they stay."""
        encoded = self._inner.encode(text, add_special_tokens=False)
        encoded.truncate(length)
        return self._inner.post_process(encoded, add_special_tokens=add_special).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens are left out. Raises ValueError for an unknown id."""
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"Tokenizer: ids holds {token}, expected 0 to {self.vocab_size - 1}"
                )
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def save(self, path: str | os.PathLike) -> None:
        Path(path).write_text(self._inner.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(
        cls, path: str | os.PathLike, settings: Mapping[str, Any] | None = None,
        end_ids: Iterable[int] = (),
    ) -> Tokenizer:  # fmt: skip
        """Reads tokenizer.json. Raises FileNotFoundError or CorruptFileError, naming the file."""
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        try:
            inner = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise CorruptFileError(file, f"not a valid tokenizer ({error})") from error
        return cls(inner, settings, end_ids)


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    special = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = settings.get(name)
        if isinstance(value, dict):  # an AddedToken, written out
            value = value.get("content")
        if isinstance(value, str):
            special[name] = value
    return special


def train_bpe(texts: str | Iterable[str], vocab_size: int, *, progress: bool = False) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2): any text survives the round trip.

    vocab_size counts the 256 bytes and the end-of-text token; a small text may give fewer tokens.
    """
    if vocab_size <= _BYTES:
        raise ValueError(f"train_bpe: vocab_size is {vocab_size}, expected at least {_BYTES + 1}")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    inner.train_from_iterator(_checked("train_bpe", texts), trainer)
    return Tokenizer(inner)


def train_chars(texts: str | Iterable[str]) -> Tokenizer:
    """One token for each character of the texts, an end-of-text token, and one for the unknown."""
    characters = sorted(set().union(*_checked("train_chars", texts)))
    vocab = {token: i for i, token in enumerate([END_OF_TEXT, UNKNOWN, *characters])}
    inner = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([END_OF_TEXT, UNKNOWN])
    return Tokenizer(inner)


def _checked(function: str, texts: str | Iterable[str]) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not any(text.strip() for text in texts):
        raise ValueError(f"{function}: texts is empty, expected some text")
    return texts
