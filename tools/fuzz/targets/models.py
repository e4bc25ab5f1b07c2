"""Small models of every kind as the bytes of their files."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch

from fusedlm.data.tokenizer import Tokenizer, train_chars
from fusedlm.models import Decoder, Encoder, ModelConfig, export_hf, save
from fusedlm.models.decoder_classifier import DecoderClassifier, DecoderClassifierConfig
from fusedlm.models.encoder_config import EncoderConfig
from fusedlm.models.encoder_decoder import EncoderDecoder
from fusedlm.models.encoder_decoder_config import EncoderDecoderConfig

Files = dict[str, bytes]
SHAPE = {"context": 8, "layers": 1, "width": 8, "heads": 2, "ffn_width": 8}


def small_tokenizer() -> Tokenizer:
    return train_chars("abc d")


def small_decoder(**fields: object) -> Decoder:
    torch.manual_seed(0)
    make = ModelConfig.llama if fields.pop("llama", True) else ModelConfig.gpt2
    shape = {**SHAPE, "vocab_size": small_tokenizer().vocab_size, **fields}
    return Decoder(make(**shape)).eval()


def read_folder(folder: Path) -> Files:
    files = (f for f in sorted(folder.rglob("*")) if f.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@cache
def own_folders() -> dict[str, Files]:
    """A folder of ours for each "kind" of config.json."""
    torch.manual_seed(0)
    vocab = small_tokenizer().vocab_size
    encoder = EncoderConfig(vocab_size=vocab, task="sequence", labels=["no", "yes"], **SHAPE)
    made = {
        "gpt2": small_decoder(llama=False),
        "llama": small_decoder(kv_heads=1, qk_norm=True, windows=[4]),
        "encoder": Encoder(encoder),
        "decoder-classifier": DecoderClassifier(
            DecoderClassifierConfig(small_decoder().config, ["no", "yes"])
        ),
        "encoder-decoder": EncoderDecoder(EncoderDecoderConfig(vocab_size=vocab, **SHAPE)),
    }
    found = {}
    for name, model in made.items():
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder) / "model", model, small_tokenizer())
            found[name] = read_folder(Path(folder) / "model")
    return found


@cache
def foreign_folders() -> dict[str, Files]:
    """A folder in Hugging Face's layout for each family."""
    torch.manual_seed(0)
    vocab = small_tokenizer().vocab_size
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 4,
    }  # fmt: skip
    made: dict[str, Decoder | Encoder] = {
        "gpt2": small_decoder(llama=False),
        "llama": small_decoder(rope_scaling=scaling),
        "qwen2": small_decoder(qkv_bias=True, windows=[4]),
        "qwen3": small_decoder(qk_norm=True),
        "mistral": small_decoder(windows=[4]),
        "bert": Encoder(EncoderConfig(vocab_size=vocab, pooler=True, **SHAPE)),
        "roberta": Encoder(
            EncoderConfig(
                vocab_size=vocab,
                style="roberta",
                types=1,
                task="sequence",
                labels=["no", "yes"],
                **SHAPE,
            )
        ),
        "distilbert": Encoder(
            EncoderConfig(
                vocab_size=vocab,
                style="distilbert",
                types=0,
                task="token",
                labels=["O", "B-X"],
                **SHAPE,
            )
        ),
    }
    found = {}
    for name, model in made.items():
        with tempfile.TemporaryDirectory() as folder:
            export_hf(model, small_tokenizer(), Path(folder) / "model")
            found[name] = read_folder(Path(folder) / "model")
    return found
