"""The small model that works for hours: the more steps an hour has, the less of a leak stays unseen."""

from __future__ import annotations

import random

import torch

from fusedlm.data import PackedData, Tokenizer, pack_text, train_bpe
from fusedlm.models import Decoder, ModelConfig

CONTEXT = 128
_WORDS = (
    "the a quick brown fox jumps over lazy dogs while seven wise owls watch from an old oak".split()
)


def text(words: int = 4000) -> str:
    return " ".join(random.Random(0).choices(_WORDS, k=words))


def tokenizer() -> Tokenizer:
    return train_bpe(text(), 300)


def data(of: Tokenizer) -> tuple[PackedData, PackedData]:
    """For training and validation."""
    return pack_text(text(), of).split(0.1)


def model(of: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    shape = {
        "context": CONTEXT,
        "layers": 2,
        "width": 64,
        "heads": 4,
        "kv_heads": 2,
        "ffn_width": 128,
    }
    return Decoder(ModelConfig.llama(vocab_size=of.vocab_size, dropout=0.1, **shape))
