"""How well a language model predicts a text, in units that compare models of any tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fusedlm.data import PackedData, Tokenizer
from fusedlm.models import Decoder
from fusedlm.models.packed import Packed
from fusedlm.nn.modes import evaluating


def windows(length: int, context: int, stride: int | None = None) -> Iterator[tuple[int, int, int]]:
    """(start, end, scored): the last `scored` of tokens start to end - 1 are predicted from those
    before. Every token but the first is scored once.

    A model reads `context` tokens and predicts the one after, so a window has up to context + 1. The
    first scores all it can and each later one `stride` (by default `context`) with as much as fits
    before them: the smaller, the more context and the more work.
    """
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride is {stride}, expected 1 to the context of {context}")
    done = 1
    while done < length:
        end = min(length, done + (context if done == 1 else stride))
        yield max(0, end - context - 1), end, end - done
        done = end


def strided_batches(
    data: PackedData, batch: int, context: int, stride: int | None, ignore_index: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The `windows` of the data as (tokens, targets) [B, T]; what is context alone has no target."""
    group: list[np.ndarray] = []

    def stacked() -> tuple[Tensor, Tensor]:
        tokens, targets = torch.from_numpy(np.stack(group)).unbind(1)
        group.clear()
        return tokens, targets

    for start, end, scored in windows(len(data), context, stride):
        ids = data.ids[start:end].astype(np.int64)
        targets = ids[1:].copy()
        targets[: len(targets) - scored] = ignore_index
        pair = np.stack([ids[:-1], targets])
        if group and group[0].shape != pair.shape:
            yield stacked()
        group.append(pair)
        if len(group) == batch:
            yield stacked()
    if group:
        yield stacked()


def text_loss(
    model: Decoder,
    tokenizer: Tokenizer,
    data: PackedData,
    *,
    batch: int = 16,
    stride: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Loss, perplexity, bits per byte and perplexity per word of all tokens but the first.

    Bits per byte and word perplexity share the nats of the whole text out over what a reader counts
    (UTF-8 bytes; words between white space), so that a tokenizer with longer tokens has no penalty.
    "by_position" has the loss of tokens with 1, 2, 3 to 4, 5 to 8 ... tokens before them in their window.
    `stride`: see `windows`. Raises ValueError for data of less than two tokens.
    """
    if batch < 1:
        raise ValueError(f"text_loss: batch is {batch}, expected at least 1")
    if len(data) < 2:
        raise ValueError(f"the text has {len(data)} tokens, expected at least 2")
    context = model.config.context
    count = sum(1 for _ in windows(len(data), context, stride))
    batches = strided_batches(data, batch, context, stride, model.config.ignore_index)
    bar = tqdm(
        batches, total=-(-count // batch), desc="measuring", unit="batch", disable=not progress
    )
    by_position = _by_position(model, bar)
    loss = sum(part["loss"] * part["tokens"] for part in by_position) / (len(data) - 1)
    predicted = len(data) - 1
    text = tokenizer.decode(data.ids[1:].tolist())
    size, words = max(1, len(text.encode())), max(1, len(text.split()))
    nats = loss * predicted
    return {
        "loss": loss,
        "perplexity": perplexity_of(loss),
        "bits_per_byte": nats / math.log(2) / size,
        "word_perplexity": perplexity_of(nats / words),
        "tokens": predicted,
        "bytes": size,
        "words": words,
        "context": min(context, predicted),
        "stride": min(stride or context, predicted),
        "by_position": by_position,
    }


@torch.no_grad()
def _by_position(model: Decoder, batches: Iterable[tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """The mean loss of tokens by how many tokens stand before them, in parts that double in size."""
    context = model.config.context
    sums = np.zeros((2, 1 + (context - 1).bit_length()))  # of losses, of tokens
    device = next(model.parameters()).device
    with evaluating(model):
        for tokens, targets in batches:
            places = (targets != model.config.ignore_index).nonzero()[:, 1] + 1
            B, T = tokens.shape
            positions = torch.arange(T, device=device).repeat(B)
            starts = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=device)
            losses = model.predict_packed(
                Packed(tokens.flatten().to(device), positions, starts),
                targets.flatten().to(device), reduction="none",
            )  # fmt: skip
            part = np.ceil(np.log2(places.numpy())).astype(int)  # exact for powers of two
            for row, weights in zip(sums, (losses.double().cpu().numpy(), None), strict=True):
                row += np.bincount(part, weights, sums.shape[1])
    return [
        {
            "first": 2**n // 2 + 1, "last": min(2**n, context),
            "tokens": int(count), "loss": float(total / count),
        }
        for n, (total, count) in enumerate(sums.T)
        if count
    ]  # fmt: skip


def perplexity_of(value: float) -> float:
    """e to the power of nats; huge instead of an overflow, which JSON could not hold."""
    return math.exp(min(value, 700.0))
