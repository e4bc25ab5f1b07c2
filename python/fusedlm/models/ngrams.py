"""Sums of weights of the n-grams of a text: the wide half of a "wide and deep" classifier.

Single tokens and pairs say much about a text's class, and a table of one weight for each n-gram and
class learns them from few examples, as a linear model does (Cheng et al. 2016, arXiv:1606.07792;
hashing as in fastText, Joulin et al. 2017, arXiv:1607.01759). The transformer adds what depends on order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from .packed import Packed

# Odd, so that multiplying by them modulo 2^64 loses nothing (splitmix64's constants, as signed numbers).
_FACTORS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)


class NGrams(nn.Module):
    """Logits [n, K] float32 of packed sequences: weights of all n-grams up to `longest`, summed.

    An n-gram's row in the table is a hash of its tokens. The sum is divided by the root of the number
    of n-grams, so that a long text says neither much more nor the same as a short one.

    `scale` multiplies it. AdamW moves a weight by about its learning rate a step, whatever its size; those of
    n-grams have to become large, since few of a text's several hundred speak for a class, and to do so
    before the transformer has learnt the texts by heart. So they move this much faster than the rest.
    """

    def __init__(self, longest: int, buckets: int, labels: int, scale: float = 32.0) -> None:
        super().__init__()
        self.longest, self.scale = longest, scale
        self.weight = nn.Parameter(torch.zeros(buckets, labels))

    def forward(self, packed: Packed) -> Tensor:
        buckets = self.buckets(packed)
        counts = self.longest * packed.lengths.long()
        # [N, longest] row by row: the n-grams that end in the tokens of one sequence lie together.
        sums = embedding_bag(
            buckets.flatten(), self.weight, self.longest * packed.starts[:-1].long(), mode="sum"
        )
        return sums * (self.scale / counts.float().sqrt()[:, None])

    def buckets(self, packed: Packed) -> Tensor:
        """The rows of the n-grams that end in each token, [N, longest] int64.

        What would begin before its sequence begins with "nothing", so every text has as many of each
        length as it has tokens.
        """
        begin = packed.starts[:-1].long()[packed.rows]
        place = torch.arange(len(packed.tokens), device=packed.tokens.device)
        found, mixed = [], torch.zeros_like(packed.tokens)
        for back in range(self.longest):
            at = place - back
            token = torch.where(at >= begin, packed.tokens[at.clamp(min=0)], -1)
            mixed = _mix(mixed + token + 1)
            found.append(((mixed >> 20) & 0x7FFFFFFFFFF) % self.weight.shape[0])
        return torch.stack(found, 1)


def _mix(x: Tensor) -> Tensor:
    x = x * _FACTORS[0]
    x = x ^ ((x >> 30) & 0x3FFFFFFFF)  # a shift that brings in zeros
    return x * _FACTORS[1]
