"""Small encoder-decoders and pairs of tokens, shared by the tests of translation."""

from __future__ import annotations

import random

import torch

from fusedlm.models import EncoderDecoder, EncoderDecoderConfig
from fusedlm.train.pair_batches import Rows
from tests.support.small import spread_out

SHAPE = {"vocab_size": 37, "context": 24, "layers": 2, "width": 32, "heads": 4, "dropout": 0.0}


def small_encoder_decoder(seed: int = 0, spread: float = 2.0, **fields) -> EncoderDecoder:
    torch.manual_seed(seed)
    return spread_out(EncoderDecoder(EncoderDecoderConfig(**{**SHAPE, **fields})), spread)


def random_pairs(
    count: int, *, examples: int = 0, longest: int = 20, vocab_size: int = 37, seed: int = 1
) -> list[Rows]:
    """Sources of 1 and more tokens, examples and targets of 0 and more, none the end token 0."""
    draw = random.Random(seed)
    tokens = lambda least: [  # noqa: E731
        draw.randrange(1, vocab_size) for _ in range(draw.randint(least, longest))
    ]
    return [([tokens(1), *(tokens(0) for _ in range(examples))], tokens(0)) for _ in range(count)]
