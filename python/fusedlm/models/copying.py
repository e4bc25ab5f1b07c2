"""Tokens copied from examples: the pointer-generator of See et al. 2017 (arXiv:1704.04368).

    p(token) = (1 - g) softmax(head)(token) + g * sum of the attention to the examples' tokens that are it

g, the share of copying, and the attention are functions of the decoder's last layer. What stands in
an example is learned to be used much sooner so than through embedding and head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fusedlm.nn import Linear

from .packed import Packed

_WIDTH = 64  # of queries and keys
# Rows of a search are filled up to a multiple of it: sums over a row are the same beside longer ones.
STRETCH = 64
_LEAST = 1e-20  # probability, below which its logarithm stays where it is


class Copying(nn.Module):
    """Attention of one head to the tokens of examples, those of the packed sources with a type above 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = Linear(width, _WIDTH, bias=False)
        self.key = Linear(width, _WIDTH, bias=False)
        self.gate = Linear(width, 1)

    def loss(
        self, x: Tensor, losses: Tensor, target: Packed, targets: Tensor, source: Packed,
        memory: Tensor,
    ) -> Tensor:  # fmt: skip
        """-log p of each target [N], where those of the head alone are `losses`; x [N, C]."""
        at, there = _rows(target.starts[:-1], target.lengths)
        weights, tokens = self._attention(x[at.flatten()].unflatten(0, at.shape), source, memory)
        copied = (weights * (tokens[:, None] == targets[at][:, :, None])).sum(-1)[there]
        never, always = self._gates(x)
        return -torch.logaddexp(never - losses, always + copied.clamp_min(_LEAST).log())

    def log_probabilities(self, x: Tensor, logits: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
        """[R, V] float32 of rows x [R, C], each with the `keys` [R, S, D] of its examples' tokens.

        tokens [R, S] are -1 where there is none.
        """
        weights = _weights(self.query(x)[:, None], keys, tokens)[:, 0]
        copied = torch.zeros(logits.shape).scatter_add_(1, tokens.clamp_min(0), weights)
        never, always = self._gates(x)
        made = never[:, None] + logits.float().log_softmax(-1)
        return torch.logaddexp(made, always[:, None] + copied.clamp_min(_LEAST).log())

    def examples(self, source: Packed, memory: Tensor, stretch: int = 1) -> tuple[Tensor, Tensor]:
        """Keys [n, S, D] and tokens [n, S] of the examples of n packed sources, -1 behind their end."""
        counted = torch.nn.functional.pad((source.types > 0).cumsum(0), (1, 0))
        counts = counted[source.starts.long()].diff()  # examples are what a source ends with
        at, there = _rows(source.starts[1:] - counts, counts, stretch)
        keys = self.key(memory[0])[at.flatten()].unflatten(0, at.shape)
        return keys, source.tokens[at].masked_fill(~there, -1)

    def _attention(self, x: Tensor, source: Packed, memory: Tensor) -> tuple[Tensor, Tensor]:
        keys, tokens = self.examples(source, memory)
        return _weights(self.query(x), keys, tokens), tokens

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log(1 - g) and log(g), [N] float32."""
        gate = self.gate(x).float().squeeze(-1)
        return logsigmoid(-gate), logsigmoid(gate)


def _weights(queries: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """softmax over the tokens that are there: [n, T, D], [n, S, D] -> [n, T, S] float32."""
    # No matrix product: torch's depends on the number of threads, and of rows.
    scores = (queries.float()[:, :, None] * keys.float()[:, None]).sum(-1) * _WIDTH**-0.5
    return scores.masked_fill(tokens[:, None] < 0, -torch.inf).softmax(-1)


def _rows(starts: Tensor, lengths: Tensor, stretch: int = 1) -> tuple[Tensor, Tensor]:
    """Where the tokens of each sequence are [n, S], and which of these are its own."""
    lengths = lengths.long()[:, None]
    longest = -(-int(lengths.max()) // stretch) * stretch
    place = torch.arange(longest)
    return starts[:, None].long() + place.minimum(lengths - 1), place < lengths
