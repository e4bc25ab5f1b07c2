"""A SentencePiece model, as Llama 2 has one, and what a GGUF file says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_TEXT = (
    "the quick brown fox jumps over lazy dogs while nineteen old sailors sing their songs",
    '{"name": "Ada", "age": 36, "tags": ["x", "y"]} 0123456789',
    "one two three " * 9,
)


def sentence_pieces(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained `SentencePieceProcessor`, BPE with a token for each byte, and the metadata of GGUF."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "text.txt").write_text("\n".join([*_TEXT, *(line[::-1] for line in _TEXT)] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=400,
        model_type="bpe", byte_fallback=True, character_coverage=1.0, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))
    size = range(model.vocab_size())
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in size
    ]
    metadata = {
        "model": "llama", "tokens": [model.id_to_piece(i) for i in size], "token_type": kinds,
        "scores": [model.get_score(i) for i in size], "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return model, {f"tokenizer.ggml.{name}": value for name, value in metadata.items()}
