"""Text in, text out: stop strings and streaming on top of the decoding loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from fusedlm.models.decoder import Decoder

from .decoding import Decoding
from .sampling import Sampling

_UNFINISHED = "\ufffd"  # how a decoder shows a character whose last bytes are still to come


class Tokenizer(Protocol):
    """What generation needs of a tokenizer; `fusedlm.data.tokenizer.Tokenizer` has it."""

    eos_id: int | None

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class TextStream:
    """Turns tokens into text piece by piece and ends at the first stop string.

    `push` and `close` return text that is final: never part of a character, and never the
    beginning of what could become a stop string. Joined, the pieces are the whole text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._start = 0  # tokens from here on are decoded again, as context for the next ones
        self._read = 0  # tokens before here are in the text already
        self._held = ""

    def push(self, token: int) -> str:
        if self.stopped:
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


def stream_text(
    model: Decoder, tokenizer: Tokenizer, prompt: str, *, max_new_tokens: int = 200,
    stop: str | Sequence[str] | None = None, seed: int | None = None, **sampling: Any,
) -> Iterator[str]:  # fmt: skip
    """The continuation of `prompt` in pieces, as they come; joined it equals `generate_text`."""
    decoding, streams = _begin(
        model, tokenizer, [prompt], max_new_tokens, stop, seed, sampling
    )  # arguments are checked here, not at the first piece
    return _pieces(decoding, streams[0])


def _pieces(decoding: Decoding, stream: TextStream) -> Iterator[str]:
    while decoding.active and not stream.stopped:
        for _, token in decoding.step():
            if text := stream.push(token):
                yield text
    if text := stream.close():
        yield text


def generate_text(
    model: Decoder, tokenizer: Tokenizer, prompt: str | Sequence[str], *,
    max_new_tokens: int = 200, stop: str | Sequence[str] | None = None, seed: int | None = None,
    **sampling: Any,
) -> str | list[str]:  # fmt: skip
    """Continues a prompt, or several at once; returns the new text only, a list for a list.

    A row ends at max_new_tokens, at the tokenizer's end-of-text token or at the first stop string,
    which is left out. An empty prompt starts from the end-of-text token. `sampling`: temperature,
    top_k, top_p, min_p, repetition_penalty. Raises ValueError naming what does not fit.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    decoding, streams = _begin(model, tokenizer, prompts, max_new_tokens, stop, seed, sampling)
    texts = [""] * len(prompts)
    while decoding.active:
        for row, token in decoding.step():
            texts[row] += streams[row].push(token)
            if streams[row].stopped:
                decoding.finish(row)
    texts = [text + stream.close() for text, stream in zip(texts, streams, strict=True)]
    return texts[0] if isinstance(prompt, str) else texts


def _begin(
    model: Decoder, tokenizer: Tokenizer, prompts: list[str], max_new_tokens: int,
    stop: str | Sequence[str] | None, seed: int | None, sampling: dict[str, Any],
) -> tuple[Decoding, list[TextStream]]:  # fmt: skip
    stops = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    if any(not isinstance(s, str) or not s for s in stops):
        raise ValueError(f"generate: stop is {stop!r}, expected strings, none empty")
    unknown = sorted(set(sampling) - set(Sampling.__dataclass_fields__))
    if unknown:
        raise TypeError(f"generate: unknown argument {unknown[0]!r}")
    rows = [_encode(tokenizer, number, text) for number, text in enumerate(prompts)]
    decoding = Decoding(
        model, rows, max_new_tokens=max_new_tokens, sampling=Sampling(**sampling),
        eos_id=tokenizer.eos_id, seed=seed,
    )  # fmt: skip
    return decoding, [TextStream(tokenizer, stops) for _ in prompts]


def _encode(tokenizer: Tokenizer, number: int, text: str) -> list[int]:
    if not isinstance(text, str):
        raise ValueError(f"generate: prompt {number} is {text!r}, expected a string")
    ids = tokenizer.encode(text)
    if ids:
        return ids
    if tokenizer.eos_id is None:
        raise ValueError(
            f"generate: prompt {number} is empty, and the tokenizer has no end-of-text token"
        )
    return [tokenizer.eos_id]
