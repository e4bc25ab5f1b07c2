"""Byte-level BPE, word and character tokenizers, on the `tokenizers` library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fusedlm.errors import CorruptFileError
from fusedlm.models.files import write_text

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
_BYTES = 256
_TAGS = tokenizers.Regex(r"</?[A-Za-z][^<>]{0,1000}>")
# Of a text that is cut, so many characters a token are looked at, so that no text is too long to encode.
_MOST_CHARACTERS = 64


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

    @cached_property
    def vocab_size(self) -> int:
        """The highest id + 1, of tokens that were added too: their number, but where ids have gaps."""
        ids: Iterable[int] = self._inner.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """`add_special`: with what the tokenizer puts around a text, a token of its beginning say."""
        ids: list[int] = _of_unicode(self._inner.encode, text, [text], add_special).ids
        return ids

    def _encoded(self, texts: Sequence[str], add_special: bool) -> list[tokenizers.Encoding]:
        texts = list(texts)
        encoded: list[tokenizers.Encoding] = _of_unicode(
            self._inner.encode_batch, texts, texts, add_special
        )
        return encoded

    def token_id(self, token: str) -> int | None:
        """The id of an entry of the vocabulary; None where it has no such entry."""
        return self._inner.token_to_id(token)

    def token(self, token_id: int) -> str | None:
        """The entry of the vocabulary itself, as the model's files write it; None for an unknown id."""
        return self._inner.id_to_token(token_id)

    def to_json(self) -> str:
        """What tokenizer.json holds."""
        return self._inner.to_str()

    def encode_batch(
        self, texts: Sequence[str], *, add_special: bool = False, longest: int | None = None,
        cut: str = "end",
    ) -> list[list[int]]:  # fmt: skip
        """`longest` cuts what has more tokens, those that `add_special` adds included.

        What is left out is the "end" of the text or, by `cut`, its "middle".
        """
        if cut not in ("end", "middle"):
            raise ValueError(f"Tokenizer: cut is {cut!r}, expected end or middle")
        if longest is None:
            return [encoded.ids for encoded in self._encoded(texts, add_special)]
        added = self._inner.num_special_tokens_to_add(False) if add_special else 0
        if longest <= added:
            raise ValueError(f"Tokenizer: longest is {longest}, expected at least {added + 1}")
        texts = [_beginning_and_end(text, longest * _MOST_CHARACTERS, cut) for text in texts]
        found = self._encoded(texts, add_special)
        return [
            self._cut(text, add_special, longest - added, cut)
            if len(encoded) > longest
            else encoded.ids
            for text, encoded in zip(texts, found, strict=True)
        ]

    def _cut(self, text: str, add_special: bool, length: int, cut: str) -> list[int]:
        """Cut before the tokens at the end are added, so that they stay."""
        whole = self._inner.encode(text, add_special_tokens=False)
        kept = _part(whole, length if cut == "end" else (length + 1) // 2)
        if cut == "middle" and length > 1:
            kept = tokenizers.Encoding.merge([kept, _part(whole, length // 2, "left")], False)
        return self._inner.post_process(kept, add_special_tokens=add_special).ids

    def encode_spans(
        self, texts: Sequence[str], *, add_special: bool = False
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids, and of each the characters of the text that it stands for; (0, 0) for added tokens."""
        found = self._encoded(texts, add_special)
        return [(encoded.ids, encoded.offsets) for encoded in found]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], longest: int, first: int, overlap: int
    ) -> list[list[tokenizers.Encoding]]:
        """Both texts of each pair with what the tokenizer puts around them, in windows of `longest` tokens.

        The first text, of which `first` tokens are kept, is in all of them; the second moves on from
        window to window, but for `overlap` tokens. Raises ValueError where that leaves no room.
        """
        room = longest - self._inner.num_special_tokens_to_add(True)
        if room - first <= overlap:
            raise ValueError(
                f"Tokenizer: longest is {longest}, expected more than the {first} tokens of a first text,"
                f" {overlap} of overlap and {longest - room} special ones"
            )
        sides = [self._encoded([pair[side] for pair in pairs], False) for side in (0, 1)]
        windows = []
        for one, two in zip(*sides, strict=True):
            one = _part(one, first)
            begin = _part(two, room - len(one))
            two.truncate(room - len(one), stride=overlap)
            windows.append(
                [self._inner.post_process(one, part) for part in (begin, *two.overflowing)]
            )
        return windows

    def without_tags(self) -> Tokenizer:
        """One that reads no HTML tags: each is a space to it. Saved, it stays so."""
        inner = tokenizers.Tokenizer.from_str(self.to_json())
        inner.normalizer = _in_order(normalizers.Replace(_TAGS, " "), inner.normalizer)
        return Tokenizer(inner, self.settings, self.end_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens are left out. Raises ValueError for an unknown id."""
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"Tokenizer: ids holds {token}, expected 0 to {self.vocab_size - 1}"
                )
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json to `path`, whole or not at all."""
        write_text(path, self._inner.to_str(pretty=True))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None,
        end_ids: Iterable[int] = (),
    ) -> Tokenizer:  # fmt: skip
        """Reads tokenizer.json. Raises FileNotFoundError or CorruptFileError, naming the file."""
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        try:
            inner = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
            for pair in (None, ""):  # tokens that are to stand around texts may be in no vocabulary
                inner.encode("", pair)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception, and panics of Rust
            raise CorruptFileError(file, f"not a valid tokenizer ({error})") from error
        return cls(inner, settings, end_ids)


def _of_unicode(
    encode: Callable[..., Any], given: str | list[str], texts: list[str], add_special: bool
) -> Any:
    """`encode` of what is given; `texts` are all texts in it."""
    try:
        return encode(given, add_special_tokens=add_special)
    except TypeError:  # the library takes nothing that UTF-8 cannot write
        for kind in map(type, texts):
            if not issubclass(kind, str):
                raise ValueError(
                    f"Tokenizer: a text is of type {kind.__name__}, expected str"
                ) from None
        raise ValueError(
            "Tokenizer: a text holds half of a surrogate pair, expected Unicode"
        ) from None
    except Exception as error:  # bare ones: a word that is unknown, say, and no token for such
        raise ValueError(f"Tokenizer: the text cannot be encoded ({error})") from error


def _part(whole: tokenizers.Encoding, length: int, side: str = "right") -> tokenizers.Encoding:
    """Its first `length` tokens, or by side "left" its last.

    What `truncate` leaves drags along what was cut off, which `merge` and `post_process` combine with
    everything. The pieces that were cut off drag nothing: so this cuts off what it wants.
    """
    if len(whole) <= length:
        return whole
    blank = tokenizers.Encoding()
    blank.pad(length)
    joined = [blank, whole] if side == "right" else [whole, blank]
    both = tokenizers.Encoding.merge(joined, False)
    both.truncate(length, direction=side)
    return both.overflowing[0]


def _beginning_and_end(text: str, most: int, cut: str) -> str:
    if len(text) <= most:
        return text
    return text[:most] if cut == "end" else text[: most // 2] + text[-(most // 2) :]


def _in_order(
    first: normalizers.Normalizer, then: normalizers.Normalizer | None
) -> normalizers.Normalizer:
    return first if then is None else normalizers.Sequence([first, then])


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


def train_words(
    texts: str | Iterable[str], vocab_size: int, *, progress: bool = False
) -> Tokenizer:
    """The most frequent words and runs of punctuation, in lower case, and a token for all others.

    Characters of Chinese are words. It loses spaces and case: for classification, not for writing.
    """
    if vocab_size <= 2:
        raise ValueError(f"train_words: vocab_size is {vocab_size}, expected at least 3")
    inner = tokenizers.Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.BertNormalizer(strip_accents=False, lowercase=True)]
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=[UNKNOWN, END_OF_TEXT], show_progress=progress
    )
    inner.train_from_iterator(_checked("train_words", texts), trainer)
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
