"""From logits to the next token: penalty, temperature, top-k, top-p, min-p and a counted draw."""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import core, define, dense, dense_last


class SampleOptions(TypedDict, total=False):
    """What `sample` takes beside the logits."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seen: Tensor | None
    seed: int | None
    step: int
    rows: Tensor | None


def _forward(
    logits: Tensor, seen: Tensor | None, rows: Tensor | None, temperature: float, top_k: int,
    top_p: float, min_p: float, repetition_penalty: float, seed: int, step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    tokens = logits.new_empty(logits.shape[:1], dtype=torch.int64)
    log_probs = logits.new_empty(logits.shape[:1], dtype=torch.float32)
    core.sample(
        dense_last(logits),
        None if seen is None else dense_last(seen),
        dense(rows),
        tokens,
        log_probs,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed % 2**64,
        step,
    )
    return tokens, log_probs


def _fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    shape = logits.shape[:1]
    return logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape, dtype=torch.float32)


define(
    "sample(Tensor logits, Tensor? seen, Tensor? rows, float temperature, int top_k, float top_p,"
    " float min_p, float repetition_penalty, int seed, int step) -> (Tensor, Tensor)",
    _forward,
    _fake,
)


@overload
def sample(
    logits: Tensor, *, return_log_prob: Literal[False] = False, **options: Unpack[SampleOptions]
) -> Tensor: ...
@overload
def sample(
    logits: Tensor, *, return_log_prob: Literal[True], **options: Unpack[SampleOptions]
) -> tuple[Tensor, Tensor]: ...
def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seen: Tensor | None = None,
    seed: int | None = None,
    step: int = 0,
    rows: Tensor | None = None,
    return_log_prob: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draws one token a row from logits [B, V], float32, bfloat16 or float16.

    In this order: repetition_penalty divides positive and multiplies negative logits of the tokens
    in seen [B, S] int64 (-1: none), each once (arXiv:1909.05858); temperature divides, 0 takes the
    most likely token; top_k keeps the k most likely (arXiv:1805.04833); top_p the smallest set of
    most likely ones that together have probability p (arXiv:1904.09751); min_p those at least min_p
    times as likely as the best (arXiv:2407.01082). None (top_k also 0) leaves one out. Equally
    likely tokens rank by id, the lower first.

    The draw is a function of (seed, rows[b], step): count `step` up from token to token. rows [B]
    int64 are by default 0 to B - 1; with its own number a row draws the same in any batch. seed None
    takes one from torch's generator. The tokens are the same for any number of threads, on every
    instruction set and on a GPU.

    Returns tokens [B] int64; with return_log_prob also the log-probabilities [B] float32 of those
    among the tokens that were kept (0 at temperature 0). There are no gradients.
    Raises ValueError naming the argument that does not fit, or the row of logits that holds NaN or
    +inf, or nothing but -inf; on a GPU such a row's token is -1 and its log-probability NaN.
    """
    if logits.dim() != 2:
        raise ValueError(f"sample: logits has shape {list(logits.shape)}, expected 2 dimensions")
    options = _rules.sample_options(top_k, top_p, min_p, repetition_penalty, seen, step)
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    tokens, log_probs = torch.ops.fusedlm.sample(
        logits.detach(), seen, rows, temperature, *options, repetition_penalty, seed, step
    )
    return (tokens, log_probs) if return_log_prob else tokens
