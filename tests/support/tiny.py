"""A tiny model with a byte-level tokenizer and a chat template, saved as a folder."""

from __future__ import annotations

from pathlib import Path

from fusedlm.data.tokenizer import Tokenizer, train_bpe
from fusedlm.models import ModelConfig, save

from .small import small_model

TEXT = 'the quick brown fox jumps over the lazy dog {"name": "Ada", "age": 36} 0123456789\n' * 20
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def save_tiny_model(folder: Path, *, context: int = 256, chat: bool = True) -> Path:
    """Random weights: texts are nonsense, the same for a seed."""
    trained = train_bpe(TEXT, 320)
    tokenizer = Tokenizer(trained._inner, {"chat_template": TEMPLATE} if chat else {})
    config = ModelConfig.llama(
        vocab_size=tokenizer.vocab_size, context=context, layers=2, width=32, heads=4, kv_heads=2,
        ffn_width=64,
    )  # fmt: skip
    save(folder, small_model(config, spread=3.0), tokenizer)
    return folder
