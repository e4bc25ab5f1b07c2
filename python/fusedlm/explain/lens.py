"""The logit lens (nostalgebraist 2020): what a decoder would say if it ended after a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedlm.models import Decoder

from .tracing import Model, Trace, decoder_norm, trace, weights_of


@dataclass(frozen=True)
class LogitLens:
    """Row 0 is the embedding, row l + 1 the stream after layer l, the last row what the model says.

    tokens, probabilities [L + 1, T, k]: the likeliest, best first. last [L + 1, T]: the probability of
    what the last row finds likeliest, and rank [L + 1, T] its place, 1 for the best.
    """

    tokens: Tensor
    probabilities: Tensor
    last: Tensor
    rank: Tensor


@torch.no_grad()
def logit_lens(
    model: Model, tokens: Sequence[int] | Tensor, *, top: int = 5, found: Trace | None = None
) -> LogitLens:
    """The final norm and the head on the stream after every layer, for tokens [T].

    `found` is a trace of these tokens, where there is one already. Raises ValueError for an encoder,
    which has no words to say, and for a `top` that does not fit.
    """
    if not isinstance(model, Decoder):
        raise ValueError(f"logit_lens: model is a {type(model).__name__}, expected a Decoder")
    if type(top) is not int or not 1 <= top <= model.config.vocab_size:
        raise ValueError(
            f"logit_lens: top is {top!r}, expected an integer from 1 to {model.config.vocab_size}"
        )
    if torch.as_tensor(tokens).dim() != 1:
        raise ValueError(
            f"logit_lens: tokens has shape {list(torch.as_tensor(tokens).shape)}, expected [T]"
        )
    found = found or trace(model, tokens, logits=False)
    weights = weights_of(model, found.final.dtype)
    table = weights["embedding.weight" if model.head is None else "head.weight"]
    streams = [found.first, *(layer.output for layer in found.layers)]
    # From the end, since what the last row says is looked for in all of them.
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for stream in reversed(streams):
        logits = decoder_norm(model, stream[0], weights, "final_norm.") @ table.T
        if not rows:
            said = logits.argmax(-1, keepdim=True)
        shares = logits.softmax(-1)
        best = shares.topk(top)
        rank = 1 + (logits > logits.gather(-1, said)).sum(-1)
        rows.insert(0, (best.indices, best.values, shares.gather(-1, said)[:, 0], rank))
    return LogitLens(*(torch.stack(column) for column in zip(*rows, strict=True)))
