"""What a trace keeps: everything that comes up in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from .plain import Attention, FeedForward

Says: TypeAlias = Callable[[Tensor, int | None], Tensor]


@dataclass(frozen=True)
class Layer:
    """One layer. All but `attention` and `ffn` are [B, T, C].

    A decoder norms what goes into attention and feed-forward (`attention_in`, `ffn_in`): `middle` is
    input + attention.out, `output` is middle + ffn.out. An encoder norms the sums: `attention_in` is the
    input itself, `ffn_in` norm(middle), and `output` norm(ffn_in + ffn.out).

    The decoder of an encoder-decoder looks at the source in between: `cross` is that attention
    [B, H, T, S], of `cross_in`, the norm of middle; `crossed` is middle + cross.out, and what ffn adds to.
    """

    input: Tensor
    attention_in: Tensor
    attention: Attention
    middle: Tensor
    ffn_in: Tensor
    ffn: FeedForward
    output: Tensor
    cross_in: Tensor | None = None
    cross: Attention | None = None
    crossed: Tensor | None = None


@dataclass(frozen=True)
class Copied:
    """What is copied from a source: `weights` [B, T, S] of its tokens, and `gate` [B, T], the logit of the
    share that copying has of the probabilities."""

    weights: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Trace:
    """What a model computes of tokens [B, T].

    `parts` are the looked-up rows by name, "token" and, where the model has them, "position" and "type";
    `embeddings` [B, T, C] is their sum, and `first` what the first layer gets (of an encoder: normed).
    `final` [B, T, C] is a decoder's last norm, an encoder's last layer. `pooled` [B, C] is an encoder's
    vector of the text, or with a classifier of sequences what that looks at. `logits` [B, T, V], or
    [B, K] and [B, T, K] of classifiers; None of an encoder without one, and where not wanted. Of an
    encoder that finds answers they are [B, 2, T]: each token's to be the first, and to be the last.

    says(stream, row) is the end of the model on what comes out of any layer [B, T, C]: its logits, or
    one row of them [B, K] (of a classifier of sequences all). None where there are no logits.

    Of an encoder-decoder all this is the decoder's, and `source` the encoder's, whose `final` is what the
    decoder looks at; where it copies, `logits` are log-probabilities, and `copying` is what it copies.
    """

    parts: dict[str, Tensor]
    embeddings: Tensor
    first: Tensor
    layers: list[Layer]
    final: Tensor
    pooled: Tensor | None
    logits: Tensor | None
    says: Says | None
    source: Trace | None = None
    copying: Copied | None = None

    @property
    def known_logits(self) -> Tensor:
        """The logits of a trace that was asked for them."""
        assert self.logits is not None
        return self.logits
