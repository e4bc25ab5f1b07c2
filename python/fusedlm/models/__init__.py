"""Decoders, encoders, encoder-decoders and their files; loaded on first use."""

from __future__ import annotations

from fusedlm._lazy import lazy

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
    "encode_texts": "texts",
    "classify_texts": "texts",
    "tag_words": "tagging",
    "find_answers": "spans",
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
__getattr__ = lazy(__name__, _HOME)
