"""From tokens to text, piece by piece, and the strings that end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_UNFINISHED = "\ufffd"  # how a decoder shows a character whose last bytes are still to come
_CONTEXT = 4  # tokens of a prompt that the first word is read with


class Tokenizer(Protocol):
    """What generation needs of a tokenizer; `fusedlm.data.tokenizer.Tokenizer` has it."""

    @property
    def eos_id(self) -> int | None: ...
    @property
    def end_ids(self) -> tuple[int, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str, *, add_special: bool = False) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class TextStream:
    """Turns tokens into text piece by piece and ends at the first stop string.

    `push` and `close` return text that is final: never part of a character, and never the
    beginning of what could become a stop string. Joined, the pieces are the whole text.

    `after` are the tokens that it goes on from: with them the space of a first word is kept, which
    tokenizers of SentencePiece take away where a text begins.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), after: Sequence[int] = ()
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens = [token for token in after[-_CONTEXT:] if 0 <= token < tokenizer.vocab_size]
        if tokenizer.decode(self._tokens).endswith(_UNFINISHED):
            self._tokens = []
        self._start = 0  # tokens from here on are decoded again, as context for the next ones
        self._read = len(self._tokens)  # tokens before here are in the text already
        self._held = ""

    def push(self, token: int) -> str:
        # A vocabulary padded to a round size has tokens that the tokenizer does not know: no text.
        if self.stopped or token >= self._tokenizer.vocab_size:
            return ""
        self._tokens.append(token)
        # Decoding the tokens that were read with and without the new ones keeps what depends on
        # neighbours (spaces between words, bytes of one character) right, at constant cost.
        before = self._tokenizer.decode(self._tokens[self._start : self._read])
        after = self._tokenizer.decode(self._tokens[self._start :])
        if after.endswith(_UNFINISHED) and len(self._tokens) - self._read < 8:
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._release(after[len(before) :])

    def close(self) -> str:
        """What was held back, now that no token follows."""
        if self.stopped:
            return ""
        before = self._tokenizer.decode(self._tokens[self._start : self._read])
        after = self._tokenizer.decode(self._tokens[self._start :])
        self._start = self._read = len(self._tokens)
        text = self._release(after[len(before) :]) + ("" if self.stopped else self._held)
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        text = self._held + text
        ends = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
