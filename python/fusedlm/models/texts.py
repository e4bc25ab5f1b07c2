"""Texts through an encoder: vectors, and classes with their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer

from .encoder import Encoder, Packed

BATCH_TOKENS = 8192  # in one call of the encoder: enough to fill the cores, 24 MiB at width 768


def embed(
    model: Encoder, tokenizer: Tokenizer, texts: str | Sequence[str], *,
    batch_tokens: int = BATCH_TOKENS, progress: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """One vector a text, [n, C] float32 (or [C] for a string), as config.pooling and normalize say.

    Texts go through the encoder packed, without padding, about `batch_tokens` tokens at a time,
    which changes time and memory only. Beyond config.max_tokens a text is cut. progress(n) is
    called when n more texts are done.
    """
    rows = _over_batches(model, tokenizer, texts, batch_tokens, progress, _vectors)
    return rows[0] if isinstance(texts, str) else rows


def classify_texts(
    model: Encoder, tokenizer: Tokenizer, texts: str | Sequence[str], *,
    batch_tokens: int = BATCH_TOKENS, progress: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """Probabilities [n, K] float32 of the classes config.labels (or [K] for a string)."""
    if model.config.task != "sequence":
        raise ValueError(
            f"classify_texts: the model's task is {model.config.task!r}, expected 'sequence'"
        )
    rows = _over_batches(model, tokenizer, texts, batch_tokens, progress, _probabilities)
    return rows[0] if isinstance(texts, str) else rows


def _vectors(model: Encoder, packed: Packed) -> Tensor:
    return model.pool(model.hidden(packed), packed)


def _probabilities(model: Encoder, packed: Packed) -> Tensor:
    return model.classify_packed(packed).float().softmax(-1)


@torch.no_grad()
def _over_batches(
    model: Encoder, tokenizer: Tokenizer, texts: str | Sequence[str], batch_tokens: int,
    progress: Callable[[int], None] | None, compute: Callable[[Encoder, Packed], Tensor],
) -> Tensor:  # fmt: skip
    if not isinstance(model, Encoder):
        raise ValueError(f"embed: model is a {type(model).__name__}, expected an Encoder")
    rows = _encode(model, tokenizer, [texts] if isinstance(texts, str) else list(texts))
    width = len(model.config.labels) if compute is _probabilities else model.config.width
    results = torch.empty(len(rows), width)
    was_training = model.training
    model.eval()
    try:
        for chosen in _batches(rows, batch_tokens):
            packed = Packed.of([rows[i] for i in chosen], model.config.first_position)
            results[chosen] = compute(model, packed)
            if progress is not None:
                progress(len(chosen))
    finally:
        model.train(was_training)
    return results


def _encode(model: Encoder, tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"embed: text {number} is {text!r}, expected a string")
    longest = min(model.config.max_tokens, model.config.context)
    rows = tokenizer.encode_batch(texts, add_special=True, longest=longest)
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"embed: text {number} is empty, and the tokenizer adds no tokens")
    return rows


def _batches(rows: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of texts whose tokens are at most `batch_tokens` together, or one longer text."""
    chosen, size = [], 0
    # Long ones first: what takes most memory fails at once, and the last batches are even.
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if chosen and size + len(rows[index]) > batch_tokens:
            yield chosen
            chosen, size = [], 0
        chosen.append(index)
        size += len(rows[index])
    if chosen:
        yield chosen
