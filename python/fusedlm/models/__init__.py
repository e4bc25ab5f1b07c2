"""Decoders, encoders, encoder-decoders and their files; loaded on first use."""

from __future__ import annotations

import importlib

_HOME = {
    "ModelConfig": "config",
    "Decoder": "decoder",
    "EncoderConfig": "encoder_config",
    "Encoder": "encoder",
    "DecoderClassifierConfig": "decoder_classifier",
    "DecoderClassifier": "decoder_classifier",
    "EncoderDecoderConfig": "encoder_decoder_config",
    "EncoderDecoder": "encoder_decoder",
    "embed": "texts",
    "classify_texts": "texts",
    "tag_words": "tagging",
    "export_gguf": "gguf_export",
    "load": "io",
    "save": "io",
    "write_model": "io",
    "export_hf": "export",
    "add_lora": "lora",
    "load_lora": "lora",
    "merge_lora": "lora",
    "save_lora": "lora",
    "tensor_parallel": "tensor_plan",
    "atomic_folder": "folder",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"fusedlm.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fusedlm.models' has no attribute {name!r}")
