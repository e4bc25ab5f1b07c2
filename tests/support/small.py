"""Small models and a tokenizer without files, shared by the tests of models and generation."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from fusedlm.models import Decoder, ModelConfig

Model = TypeVar("Model", bound=nn.Module)

CONFIGS = {
    "gpt2": ModelConfig.gpt2(vocab_size=61, context=24, layers=2, width=32, heads=4),
    "llama": ModelConfig.llama(
        vocab_size=61, context=24, layers=2, width=32, heads=4, kv_heads=2, ffn_width=48
    ),
    "qwen": ModelConfig.llama(
        vocab_size=61, context=24, layers=2, width=32, heads=4, kv_heads=2, head_width=12,
        ffn_width=48, qkv_bias=True, qk_norm=True, windows=[0, 5], tied=True,
    ),
}  # fmt: skip


def small_model(name: str | ModelConfig, seed: int = 0, spread: float = 4.0) -> Decoder:
    torch.manual_seed(seed)
    return spread_out(Decoder(CONFIGS[name] if isinstance(name, str) else name), spread)


@torch.no_grad()
def spread_out(model: Model, spread: float) -> Model:
    """Weights `spread` times larger than at the start of training, so that outputs differ."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter *= spread
        else:
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


class ByteTokenizer:
    """One token a UTF-8 byte, and 256 for the end of text."""

    vocab_size = 257

    def __init__(self, eos_id: int | None = 256) -> None:
        self.eos_id = eos_id
        self.end_ids = () if eos_id is None else (eos_id,)
        self.special = {}

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")
