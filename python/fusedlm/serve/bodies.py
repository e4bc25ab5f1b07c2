"""The JSON of answers, whole and in pieces, as OpenAI's API has it."""

from __future__ import annotations

import time
import uuid
from typing import Any

from fusedlm.generate.batch import Piece
from fusedlm.generate.text import TextStream, Tokenizer

from .requests import TextRequest
from .texts import Text


class Bodies:
    """Of one request: the same id and time in every piece. `chat` or plain completion."""

    def __init__(self, request: TextRequest, chat: bool, model: str, tokenizer: Tokenizer) -> None:
        self._request, self._chat, self._tokenizer = request, chat, tokenizer
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._kind = kind
        self._head = {
            "id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()),
            "model": model,
        }  # fmt: skip
        self._new_tokens = 0
        self._offsets: dict[int, int] = {}  # of the next token's text, by choice
        self._streams: dict[int, TextStream] = {}

    def whole(self, texts: list[Text]) -> dict[str, Any]:
        self._new_tokens = sum(len(text.tokens) for text in texts)
        choices = [self._whole_choice(index, text) for index, text in enumerate(texts)]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def first(self, index: int) -> dict[str, Any]:
        """The piece that says who speaks, before a chat's text."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def count(self, piece: Piece) -> None:
        self._new_tokens += len(piece.tokens)

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        self.count(piece)
        if self._chat:
            content: dict[str, Any] = {"delta": {"content": piece.text} if piece.text else {}}
        else:
            content = {"text": piece.text}
        log = self._logprobs(index, piece.tokens, piece.log_probs)
        return self._chunk(index, {**content, "logprobs": log}, piece.finish)

    def usage(self) -> dict[str, Any]:
        """The last piece, where it was asked for."""
        return {**self._chunk_head(), "choices": [], "usage": self._usage()}

    def _whole_choice(self, index: int, text: Text) -> dict[str, Any]:
        if self._chat:
            message = {"role": "assistant", "content": text.text, "refusal": None}
            content: dict[str, Any] = {"message": message}
        else:
            content = {"text": text.text}
        log = self._logprobs(index, text.tokens, text.log_probs)
        return {"index": index, **content, "logprobs": log, "finish_reason": text.finish}

    def _chunk_head(self) -> dict[str, Any]:
        kind = f"{self._kind}.chunk" if self._chat else self._kind
        return {**self._head, "object": kind}

    def _chunk(self, index: int, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, **content, "finish_reason": finish}
        chunk = {**self._chunk_head(), "choices": [choice]}
        return {**chunk, "usage": None} if self._request.include_usage else chunk

    def _logprobs(
        self, index: int, tokens: list[int], log_probs: list[float]
    ) -> dict[str, Any] | None:
        if not self._request.logprobs:
            return None
        texts = [self._tokenizer.decode([token]) for token in tokens]
        if self._chat:
            content = [
                {"token": text, "logprob": value, "bytes": _bytes(text), "top_logprobs": []}
                for text, value in zip(texts, log_probs, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets = []
        # Of the text that tokens make together: one alone may be part of a character.
        stream = self._streams.get(index)
        if stream is None:
            prompt = self._request.prompts[index // self._request.n]
            stream = self._streams[index] = TextStream(self._tokenizer, after=prompt)
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(stream.push(token))
        return {
            "tokens": texts, "token_logprobs": log_probs, "top_logprobs": None,
            "text_offset": offsets,
        }  # fmt: skip

    def _usage(self) -> dict[str, int]:
        prompt = sum(len(prompt) for prompt in self._request.prompts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._new_tokens,
            "total_tokens": prompt + self._new_tokens,
        }


def _bytes(text: str) -> list[int] | None:
    """None for a token that is part of a character alone."""
    return None if "\ufffd" in text else list(text.encode())
