"""The logit lens (nostalgebraist 2020): what a model would say if it ended after a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fusedlm.models.encoder_decoder import Source

from .record import Trace
from .tracing import Model, Tokens, trace


@dataclass(frozen=True)
class LogitLens:
    """Row 0 is the embedding, row l + 1 the stream after layer l, the last row what the model says.

    tokens, probabilities [L + 1, R, k]: the likeliest, best first. last [L + 1, R]: the probability of
    what the last row finds likeliest, and rank [L + 1, R] its place, 1 for the best. R is the number of
    tokens, or 1 of a classifier of sequences; a classifier's `tokens` are classes. Of an encoder that
    finds answers R is 2, and `tokens` are the positions of the first and of the last one.
    """

    tokens: Tensor
    probabilities: Tensor
    last: Tensor
    rank: Tensor


@torch.no_grad()
def logit_lens(
    model: Model, tokens: Tokens, *, types: Tokens | None = None, source: Source | None = None,
    top: int = 5, found: Trace | None = None,
) -> LogitLens:  # fmt: skip
    """The end of the model on the stream after every layer, for tokens [T].

    That is a decoder's last norm and head (and what copies), and what classifies, on a classifier; of an
    encoder-decoder, which needs a `source` as in `trace`, those of its decoder. `found` is a trace of
    these tokens, where there is one already. Raises ValueError for an encoder without a classifier,
    which has nothing to say, and for a `top` that does not fit.
    """
    if torch.as_tensor(tokens).dim() != 1:
        raise ValueError(
            f"logit_lens: tokens has shape {list(torch.as_tensor(tokens).shape)}, expected [T]"
        )
    found = found or trace(model, tokens, types=types, source=source, logits=False)
    if found.says is None:
        raise ValueError("logit_lens: the encoder has no classifier, and so nothing to say")
    # From the end, since what the last row says is looked for in all of them.
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for stream in reversed([found.first, *(layer.output for layer in found.layers)]):
        logits = found.says(stream, None).flatten(0, -2)
        if not rows:
            said = logits.argmax(-1, keepdim=True)
            if type(top) is not int or not 1 <= top <= logits.shape[1]:
                raise ValueError(
                    f"logit_lens: top is {top!r}, expected an integer from 1 to {logits.shape[1]}"
                )
        shares = logits.softmax(-1)
        best = shares.topk(top)
        rank = 1 + (logits > logits.gather(-1, said)).sum(-1)
        rows.insert(0, (best.indices, best.values, shares.gather(-1, said)[:, 0], rank))
    return LogitLens(*(torch.stack(column) for column in zip(*rows, strict=True)))
