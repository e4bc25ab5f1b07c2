"""Tokens copied from a source and its examples: the pointer-generator of See et al. 2017 (arXiv:1704.04368).

    p(token) = (1 - g) softmax(head)(token) + g * sum of the attention to those tokens that are it

g, the share of copying, and the attention are functions of the decoder's last layer, and of what was
written last: a token that follows the same tokens as the next one does has a score of its own for every
number of them, and g has one for the most that there are. A model would learn to go on copying
where it has begun (an "induction head": Olsson et al. 2022, arXiv:2209.11895), but from more text than a
translator's few thousand pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fusedlm import ops
from fusedlm.nn import Linear

from .packed import Packed

_WIDTH = 64  # of queries and keys
# Rows of a search are filled up to a multiple of it: sums over a row are the same beside longer ones.
STRETCH = 64
LOOK_BACK = 3  # tokens that are compared, at most
_LEAST = 1e-20  # probability, below which its logarithm stays where it is


@dataclass(frozen=True)
class Copyable:
    """Of each source with its examples [n, S, ...]: keys of all tokens, the tokens, -1 behind their end,
    and the LOOK_BACK ones before each."""

    keys: Tensor
    tokens: Tensor
    before: Tensor

    def __getitem__(self, rows: Tensor) -> Copyable:
        return Copyable(self.keys[rows], self.tokens[rows], self.before[rows])


class Copying(nn.Module):
    """Attention of one head to the tokens of packed sources."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = Linear(width, _WIDTH, bias=False)
        self.key = Linear(width, _WIDTH, bias=False)
        self.gate = Linear(width, 1)
        self.follow_weight = nn.Parameter(torch.arange(LOOK_BACK + 1.0))
        self.gate_follow_weight = nn.Parameter(torch.zeros(LOOK_BACK + 1))

    def loss(
        self, x: Tensor, losses: Tensor, target: Packed, targets: Tensor, source: Packed,
        memory: Tensor,
    ) -> Tensor:  # fmt: skip
        """-log p of each target [N], where those of the head alone are `losses`; x [N, C]."""
        at, there = _rows(target.starts[:-1], target.lengths)
        found = self.copyable(source, memory)
        queries = self.query(x).float().split(target.lengths.tolist())
        products = [
            ops.linear(query, keys[: int(length)])
            for query, keys, length in zip(queries, found.keys, source.lengths, strict=True)
        ]
        T, S = at.shape[1], found.tokens.shape[1]
        pad = torch.nn.functional.pad
        products = [pad(p, (0, S - p.shape[1], 0, T - p.shape[0])) for p in products]
        written = tokens_before(target, ending_with=True)[at]
        weights, gate = self._attend(torch.stack(products), self._gate(x)[at], found, written)
        copied = (weights * (found.tokens[:, None] == targets[at][:, :, None])).sum(-1)[there]
        never, always = logsigmoid(-gate[there]), logsigmoid(gate[there])
        return -torch.logaddexp(never - losses, always + copied.clamp_min(_LEAST).log())

    def log_probabilities(
        self, x: Tensor, logits: Tensor, copyable: Copyable, written: Tensor
    ) -> Tensor:
        """[R, V] float32 of rows x [R, C], each with its source and what it has written last.

        written [R, LOOK_BACK] begins with the last token, and has -2 where there is none.
        """
        # No matrix product: what a row gets would depend on how many there are.
        products = (self.query(x).float()[:, None] * copyable.keys).sum(-1)[:, None]
        found = self._attend(products, self._gate(x)[:, None], copyable, written[:, None])
        weights, gate = (part[:, 0] for part in found)
        copied = torch.zeros(logits.shape).scatter_add_(1, copyable.tokens.clamp_min(0), weights)
        never, always = logsigmoid(-gate)[:, None], logsigmoid(gate)[:, None]
        made = never + logits.float().log_softmax(-1)
        return torch.logaddexp(made, always + copied.clamp_min(_LEAST).log())

    def copyable(self, source: Packed, memory: Tensor, stretch: int = 1) -> Copyable:
        """Of n packed sources, S filled up to a multiple of `stretch`."""
        at, there = _rows(source.starts[:-1], source.lengths, stretch)
        tokens = source.tokens[at].masked_fill(~there, -1)
        return Copyable(self.key(memory[0]).float()[at], tokens, tokens_before(source)[at])

    def _gate(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x)
        return gate.float().squeeze(-1)

    def _attend(
        self, products: Tensor, gate: Tensor, found: Copyable, written: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention [n, T, S] to the tokens that are there, and gates [n, T], of queries times keys and
        what the decoder alone makes of the gates."""
        there = found.tokens[:, None] >= 0
        alike = written[:, :, None] == found.before[:, None]
        count = alike.to(torch.int64).cumprod(-1).sum(-1) * there  # [n, T, S]
        scores = products * _WIDTH**-0.5 + self.follow_weight[count]
        weights = scores.masked_fill(~there, -torch.inf).softmax(-1)
        return weights, gate + self.gate_follow_weight[count.amax(-1)]


def tokens_before(packed: Packed, *, ending_with: bool = False) -> Tensor:
    """The LOOK_BACK tokens before each, the nearest first, [N, LOOK_BACK].

    `ending_with` counts each itself as the nearest. -1 stands for those before the beginning of a
    sequence, then -2: nothing before a source is like nothing before a target.
    """
    first = 0 if ending_with else 1
    starts = packed.starts[:-1].long()[packed.rows]
    place = torch.arange(len(packed.tokens))[:, None] - torch.arange(first, first + LOOK_BACK)
    tokens = packed.tokens[place.clamp_min(0)]
    return tokens.masked_fill(place < starts[:, None], -2 if ending_with else -1)


def _rows(starts: Tensor, lengths: Tensor, stretch: int = 1) -> tuple[Tensor, Tensor]:
    """Where the tokens of each sequence are [n, S], and which of these are its own."""
    lengths = lengths.long()[:, None]
    longest = -(-int(lengths.max()) // stretch) * stretch
    place = torch.arange(longest)
    return starts[:, None].long() + place.minimum(lengths - 1), place < lengths
