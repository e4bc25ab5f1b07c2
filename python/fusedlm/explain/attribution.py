"""Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) on the token embeddings."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fusedlm.models import Encoder, EncoderDecoder
from fusedlm.models.encoder_decoder import Source

from .encoder_trace import ngram_shares
from .plain import Weights
from .tracing import (
    Model,
    Tokens,
    as_source,
    as_tokens,
    dtype_for,
    task_of,
    token_table,
    trace,
    weights_of,
)

BASELINES = ("mean", "zero")
_BATCH_TOKENS = 512  # computed at once; the path is cut into so much
_POINTS, _PIECES = 4, 8  # of the rule of Gauss and Legendre on a piece of the path; pieces at first
_ENOUGH = 0.005  # of what the whole path changes, as the sum of what the pieces are off by


@dataclass(frozen=True)
class Attribution:
    """How much each token moved log p(target), in nats.

    `scores` [T] (of an encoder-decoder [S], of what its encoder reads) sum up to what the way from the
    baseline to the text changes: from `before` to `after`.
    `numbers` [T, C] are the same for each number of an embedding, `ngrams` [T] (or None) for the n-grams
    that a token is part of; scores is the sum of both. `gap` is what the sum is off by
    (completeness, the paper's check): it vanishes with more steps; `relative_gap` is its share of
    after - before. `steps` gradients were computed.
    """

    target: int | tuple[int, int]
    position: int | None
    baseline: str
    steps: int
    scores: Tensor
    numbers: Tensor
    ngrams: Tensor | None
    before: float
    after: float

    @property
    def gap(self) -> float:
        """What the sum of the scores is off by, in nats."""
        return float(self.scores.sum()) - (self.after - self.before)

    @property
    def relative_gap(self) -> float:
        """The gap as a share of after - before, never negative."""
        return abs(self.gap) / max(abs(self.after - self.before), 1e-12)


def integrated_gradients(
    model: Model, tokens: Tokens, *, types: Tokens | None = None, source: Source | None = None,
    target: int | tuple[int, int] | None = None, position: int | None = None, steps: int = 512,
    baseline: str | int = "mean",
) -> Attribution:  # fmt: skip
    """Which tokens speak for `target`, and which against it.

    Of a decoder target is the token after position (by default the last), of a classifier a class,
    of one of tokens that of position, of an encoder that finds answers the positions of the first and
    the last token, and p their product; None takes the likeliest. The gradient of log p(target) is
    averaged over the straight line from a baseline, the same row for every token, to the embeddings;
    positions and types stay, and n-grams, each shared out evenly among its tokens, come from nothing.
    An encoder-decoder needs a `source` as in `trace`: it is the source's tokens that are moved, those of
    its examples and the ends among them, while `tokens` stay, and what is copied stays the same token.
    baseline "mean" is the mean row of the vocabulary, "zero" zeros, and a
    number the row of that token.

    At most `steps` gradients are computed (32 at least), where they are needed: what a piece of the
    path has to add up to is known from its ends, and pieces that are off are halved. Near a baseline
    whose norm is small a model can change a thousand times faster than elsewhere.
    """
    ids = as_tokens(model, tokens)
    if ids.shape[0] != 1:
        raise ValueError(f"integrated_gradients: tokens has shape {list(ids.shape)}, expected [T]")
    if type(steps) is not int or steps < _POINTS * _PIECES:
        raise ValueError(
            f"integrated_gradients: steps is {steps!r}, expected an integer of at least"
            f" {_POINTS * _PIECES}"
        )
    position = _position(model, ids.shape[1], position)
    weights = weights_of(model, dtype_for(model))
    table = weights[token_table(model)]
    moved = as_source(model, source).tokens if isinstance(model, EncoderDecoder) else ids[0]
    start = _baseline(table, baseline).expand(len(moved), -1)
    end = table[moved]
    C = table.shape[1]
    if isinstance(model, Encoder) and model.ngrams is not None:  # more numbers of each token
        said = ngram_shares(model.ngrams, model.pack(ids)[0], weights)[0]
        start, end = torch.cat((start, torch.zeros_like(said)), 1), torch.cat((end, said), 1)

    def log_shares(rows: Tensor) -> Tensor:
        return _log_shares(model, ids, types, source, rows, weights, position)

    with torch.no_grad():
        ends = log_shares(torch.stack([start, end]))
    target = _target(ends[1], target)
    of_target = _of(target)
    before, after = of_target(ends).tolist()
    path = _Path(start, end, lambda rows: of_target(log_shares(rows)))
    used, numbers = path.integrate(steps)
    return Attribution(
        target, position, str(baseline), used, numbers.sum(-1), numbers[:, :C],
        numbers[:, C:].sum(-1) if numbers.shape[1] > C else None,
        before=before, after=after,
    )  # fmt: skip


def _target(shares: Tensor, target: int | tuple[int, int] | None) -> int | tuple[int, int]:
    """The target, or what log-probabilities [K] or [2, T] say is the likeliest."""
    count, answer = shares.shape[-1], shares.dim() == 2
    if target is None and answer:  # an answer ends where it begins, or later
        both = (shares[0][:, None] + shares[1]).masked_fill(
            ~torch.ones(count, count, dtype=torch.bool).triu(), -torch.inf
        )
        first, last = divmod(int(both.argmax()), count)
        return first, last
    if target is None:
        return int(shares.argmax())
    parts = target if isinstance(target, tuple) else (target,)
    fits = all(type(part) is int and 0 <= part < count for part in parts)
    if not fits or isinstance(target, tuple) != answer or (answer and len(parts) != 2):
        expected = "two integers" if answer else "an integer"
        raise ValueError(
            f"integrated_gradients: target is {target!r}, expected {expected} from 0 to {count - 1}"
        )
    return target


def _of(target: int | tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """From the log-probabilities of all targets to those of this one [B]."""
    if isinstance(target, tuple):
        first, last = target
        return lambda shares: shares[:, 0, first] + shares[:, 1, last]
    return lambda shares: shares[:, target]


@dataclass
class _Path:
    """The line from `start` to `end` [T, C], and a function of many such rows [n, T, C] -> [n]."""

    start: Tensor
    end: Tensor
    function: Callable[[Tensor], Tensor]

    def integrate(self, steps: int) -> tuple[int, Tensor]:
        """(gradients computed, their integral along the line [T, C])."""
        # The first pieces are the shorter the nearer they are to the baseline, where most happens.
        edges = [0.0, *(2.0 ** -(_PIECES - 1 - k) for k in range(_PIECES))]
        fresh = list(pairwise(edges))
        heights = dict(zip(edges, self._heights(edges), strict=True))
        change = abs(heights[1.0] - heights[0.0])
        done: list[tuple[float, float, float, Tensor]] = []  # (off by, from, to, integral)
        used = 0
        while True:
            for (a, b), integral in zip(fresh, self._gradients(fresh), strict=True):
                off = abs(float(integral.sum()) - (heights[b] - heights[a]))
                done.append((off, a, b, integral))
            used += _POINTS * len(fresh)
            done.sort(key=lambda piece: -piece[0])
            missing = sum(piece[0] for piece in done) - _ENOUGH * change
            worst = 0  # the fewest pieces without which little enough would be off
            while missing > 0 and worst < len(done) and used + 2 * _POINTS * (worst + 1) <= steps:
                missing -= done[worst][0]
                worst += 1
            if not worst:
                in_order = sorted(done, key=lambda piece: piece[1])
                return used, functools.reduce(operator.add, (piece[3] for piece in in_order))
            halves = [(a, (a + b) / 2, b) for _, a, b, _ in done[:worst]]
            middles = [middle for _, middle, _ in halves]
            heights.update(zip(middles, self._heights(middles), strict=True))
            fresh = [half for a, middle, b in halves for half in ((a, middle), (middle, b))]
            done = done[worst:]

    def _rows(self, alphas: Sequence[float]) -> Iterator[Tensor]:
        many = torch.tensor(alphas, dtype=torch.float64).to(self.end.dtype)[:, None, None]
        size = max(1, _BATCH_TOKENS // self.end.shape[0])
        for start in range(0, len(many), size):
            some = many[start : start + size]
            yield self.start + some * (self.end - self.start)

    @torch.no_grad()
    def _heights(self, alphas: Sequence[float]) -> list[float]:
        return [value for rows in self._rows(alphas) for value in self.function(rows).tolist()]

    def _gradients(self, pieces: list[tuple[float, float]]) -> list[Tensor]:
        """The integral over each piece, times the whole line."""
        points, shares = np.polynomial.legendre.leggauss(_POINTS)  # on [-1, 1]
        alphas = [a + (b - a) * (point + 1) / 2 for a, b in pieces for point in points]
        found = []
        for rows in self._rows(alphas):
            rows.requires_grad_()
            found.append(torch.autograd.grad(self.function(rows).sum(), rows)[0])
        slopes = torch.cat(found)
        slopes = slopes.view(len(pieces), _POINTS, *slopes.shape[1:])
        weights = torch.from_numpy(shares / 2).to(slopes.dtype)[:, None, None]
        lengths = torch.tensor([b - a for a, b in pieces], dtype=slopes.dtype)[:, None, None]
        return list((slopes * weights).sum(1) * lengths * (self.end - self.start))


def _position(model: Model, T: int, position: int | None) -> int | None:
    """Where the target stands: None of a classifier of sequences."""
    if isinstance(model, Encoder) and model.config.task is None:
        raise ValueError(
            "integrated_gradients: the encoder has no classifier, and so nothing to explain"
        )
    if task_of(model) in ("sequence", "span"):
        if position is not None:
            raise ValueError(
                f"integrated_gradients: position is {position!r}, expected None of what classifies"
                " sequences or finds answers"
            )
        return None
    position = T - 1 if position is None else position
    if type(position) is not int or not 0 <= position < T:
        raise ValueError(
            f"integrated_gradients: position is {position!r}, expected an integer from 0 to {T - 1}"
        )
    return position


def _baseline(table: Tensor, baseline: str | int) -> Tensor:
    if type(baseline) is int and 0 <= baseline < table.shape[0]:
        return table[baseline]
    if baseline == "zero":
        return torch.zeros_like(table[0])
    if baseline == "mean":
        return table.mean(0)
    raise ValueError(
        f"integrated_gradients: baseline is {baseline!r}, expected one of {BASELINES} or a token"
    )


def _log_shares(
    model: Model, ids: Tensor, types: Tokens | None, source: Source | None, rows: Tensor,
    weights: Weights, position: int | None,
) -> Tensor:  # fmt: skip
    """Log-probabilities [B, K] at the position, of B versions of the token rows; [B, 2, T] of answers.

    Behind each row stands what the token has of the n-grams' logits, where there are some.
    """
    ids, ngrams = ids.expand(rows.shape[0], -1), None
    if isinstance(model, Encoder) and model.ngrams is not None:
        rows, more = rows.split([model.config.width, rows.shape[2] - model.config.width], -1)
        ngrams = more.sum(1)
    in_source = isinstance(model, EncoderDecoder)
    found = trace(
        model, ids, types=types, source=source, token_rows=None if in_source else rows,
        source_rows=rows if in_source else None, ngrams=ngrams, weights=weights, logits=False,
    )  # fmt: skip
    assert found.says is not None  # what has nothing to say was refused
    return found.says(found.layers[-1].output, position).log_softmax(-1)
