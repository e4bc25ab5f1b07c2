"""Encoders of the BERT family from GGUF, where they are the architecture "bert"."""

from __future__ import annotations

from fusedlm.errors import CorruptFileError

from .encoder_config import EncoderConfig
from .gguf_file import GgufFile
from .huggingface import MOST_LAYERS, Fields

# bert.pooling_type of GGUF; 0 says nothing, as do folders of Hugging Face without sentence-transformers.
_POOLINGS = {0: "mean", 1: "mean", 2: "cls"}


def read_encoder_config(file: GgufFile, fields: Fields) -> EncoderConfig:
    """The `EncoderConfig` that the metadata describe.

    A file says nothing of the activation, which is BERT's GELU, nor of where sentence-transformers
    cuts a text and whether it normalises vectors.
    """
    fields.must_be(False, "bert.attention.causal")
    pooling = fields.get("bert.pooling_type", 0)
    if type(pooling) is not int or pooling not in _POOLINGS:
        raise fields.refusal("bert.pooling_type", pooling, "0, 1 (mean) or 2 (the first token)")
    for name in ("cls.weight", "cls.output.weight"):
        if name in file.names():
            raise NotImplementedError(f"{file.path}: {name!r} is a classifier's, expected none")
    types = "token_types.weight"
    values = {
        "vocab_size": file.vocabulary(),
        "context": fields.count("bert.context_length"),
        "layers": fields.count("bert.block_count", most=MOST_LAYERS),
        "width": fields.count("bert.embedding_length"),
        "heads": fields.count("bert.attention.head_count"),
        "ffn_width": fields.count("bert.feed_forward_length"),
        "norm_eps": fields.number("bert.attention.layer_norm_epsilon", 1e-12),
        "types": file.shape(types)[0] if types in file.names() else 0,
        "pad_id": fields.count("tokenizer.ggml.padding_token_id", 0),
        "pooling": _POOLINGS[pooling],
    }  # fmt: skip
    try:
        return EncoderConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CorruptFileError(file.path, str(error)) from error
