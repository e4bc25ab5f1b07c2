"""Texts through a model: vectors of an encoder, and classes with their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.nn.modes import evaluating

from .decoder_classifier import DecoderClassifier
from .encoder import Encoder
from .encoder_config import ONE_OF
from .packed import Packed

BATCH_TOKENS = 8192  # in one call of the model: enough to fill the cores, 24 MiB at width 768
_GLANCE = 64  # characters of a text, which nearly always say that it has tokens
Classifier = Encoder | DecoderClassifier


def class_names(model: Classifier) -> list[str]:
    """config.labels; ValueError where an encoder has none."""
    labels = model.config.labels
    if labels is None:
        raise ValueError("the encoder has no classes: its config.task is None")
    return labels


def embed(
    model: Encoder, tokenizer: Tokenizer, texts: str | Sequence[str], *,
    batch_tokens: int = BATCH_TOKENS, progress: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """One vector a text, [n, C] float32 (or [C] for a string), as config.pooling and normalize say.

    Texts go through the encoder packed, without padding, about `batch_tokens` tokens at a time,
    which changes time and memory only. Of a text longer than config.max_tokens a part is left out.
    progress(n) is called when n more texts are done.
    """
    if not isinstance(model, Encoder):
        raise ValueError(f"embed: model is a {type(model).__name__}, expected an Encoder")
    rows = encode_texts("embed", model, tokenizer, [texts] if isinstance(texts, str) else texts)
    compute = lambda packed: model.pool(model.hidden(packed), packed)  # noqa: E731
    found = over_batches(
        model, rows, compute, model.config.width, batch_tokens=batch_tokens, progress=progress
    )
    return found[0] if isinstance(texts, str) else found


def classify_texts(
    model: Classifier, tokenizer: Tokenizer, texts: str | Sequence[str], *,
    batch_tokens: int = BATCH_TOKENS, progress: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """Probabilities [n, K] float32 of the classes config.labels (or [K] for a string).

    NotImplementedError for a model of regression or of several labels a text: its logits are none.
    """
    task = getattr(model.config, "task", None)
    if task != "sequence":
        raise ValueError(f"classify_texts: the model's task is {task!r}, expected 'sequence'")
    problem = getattr(model.config, "problem_type", ONE_OF)
    if problem != ONE_OF:
        raise NotImplementedError(
            f"classify_texts: the model's problem_type is {problem!r}, whose logits are no probabilities"
            f" of classes, expected {ONE_OF!r}; Encoder.classify gives the logits"
        )
    texts_list = [texts] if isinstance(texts, str) else texts
    rows = encode_texts("classify_texts", model, tokenizer, texts_list)
    logits = over_batches(
        model, rows, model.classify_packed, len(class_names(model)), batch_tokens=batch_tokens,
        progress=progress,
    )  # fmt: skip
    probabilities = logits.softmax(-1)
    return probabilities[0] if isinstance(texts, str) else probabilities


def encode_texts(
    caller: str, model: Classifier, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[list[int]]:
    """Tokens of texts as `model` reads them: with what goes around a text, and cut.

    `caller` is the name that errors begin with. Raises ValueError naming the text that is no string, or
    that has no tokens.
    """
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{caller}: text {number} is {text!r}, expected a string")
    longest = model.config.read_tokens
    rows = tokenizer.encode_batch(texts, add_special=True, longest=longest, cut=model.config.cut)
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"{caller}: text {number} is empty, and the tokenizer adds no tokens")
    return rows


def tokenless(model: Classifier, tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Numbers of the texts that `encode_texts` refuses, having no tokens. It costs little."""
    if tokenizer.encode("", add_special=True):
        return []
    glances = tokenizer.encode_batch([_glance(text) for text in texts], add_special=True)
    left = [number for number, row in enumerate(glances) if not row]
    rows = tokenizer.encode_batch(
        [texts[number] for number in left], add_special=True, longest=model.config.read_tokens,
        cut=model.config.cut,
    )  # fmt: skip
    return [number for number, row in zip(left, rows, strict=True) if not row]


def _glance(text: str) -> str:
    """The beginning; half a tag, which would have tokens where the whole has none, is no part of it."""
    begin = text[:_GLANCE]
    return begin.rpartition("<")[0] if "<" in begin else begin


@torch.no_grad()
def over_batches(
    model: Classifier, rows: Sequence[Sequence[int]], compute: Callable[[Packed], Tensor],
    width: int, *, batch_tokens: int = BATCH_TOKENS, progress: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """What `compute` makes of packed rows, [n, width] float32, one result a row in the order of `rows`."""
    results = torch.empty(len(rows), width)
    for chosen, packed in in_batches(model, rows, batch_tokens):
        results[chosen] = compute(packed).float()
        if progress is not None:
            progress(len(chosen))
    return results


def in_batches(
    model: Classifier, rows: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS,
    types: Sequence[Sequence[int]] | None = None,
) -> Iterator[tuple[list[int], Packed]]:  # fmt: skip
    """(numbers of rows, these packed) until all are done, with `model` as it is in use meanwhile."""
    with evaluating(model):
        for chosen in _batches(rows, batch_tokens):
            kinds = None if types is None else [types[i] for i in chosen]
            yield chosen, Packed.of([rows[i] for i in chosen], model.config.first_position, kinds)


def _batches(rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of rows whose tokens are at most `batch_tokens` together, or one longer row."""
    chosen: list[int] = []
    size = 0
    # Long ones first: what takes most memory fails at once, and the last batches are even.
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if chosen and size + len(rows[index]) > batch_tokens:
            yield chosen
            chosen, size = [], 0
        chosen.append(index)
        size += len(rows[index])
    if chosen:
        yield chosen
