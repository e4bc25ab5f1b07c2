"""A whole model once more, in plain torch, with everything on the way recorded.

    found = trace(model, [5, 3, 8])
    found.layers[0].attention.weights        # [1, heads, 3, 3]

It takes the parameters as they are (adapters added), float32 or float64, and embeddings in place of
tokens. Nothing is dropped out. Tests hold it to the fused model: logits, loss and every gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fusedlm.models import (
    Decoder,
    DecoderClassifier,
    Encoder,
    EncoderConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    ModelConfig,
)
from fusedlm.models.checks import check_tokens
from fusedlm.models.encoder_decoder import Source
from fusedlm.models.lora import merged_state
from fusedlm.models.packed import Packed

from . import decoder_trace, encoder_decoder_trace, encoder_trace
from .plain import Weights
from .record import Trace

Model: TypeAlias = Decoder | DecoderClassifier | Encoder | EncoderDecoder
Tokens: TypeAlias = Sequence[int] | Tensor
_FEW = 10_000_000  # parameters; more of them in float64 would take too much memory


def trace(
    model: Model, tokens: Tokens, *, types: Tokens | None = None, source: Source | None = None,
    token_rows: Tensor | None = None, source_rows: Tensor | None = None,
    ngrams: Tensor | None = None, dtype: torch.dtype = torch.float32,
    weights: Weights | None = None, logits: bool = True,
) -> Trace:  # fmt: skip
    """Computes `model` on tokens [T] or [B, T] in plain torch and records what comes up.

    `types`, as many as tokens, are an encoder's token types (None: all 0). Of an encoder-decoder `tokens`
    are what its decoder reads, config.end_id and then a target, and `source` those of one source and of
    its examples, without their ends ([tokens] without examples); source_rows [B, S, C] stand in for the
    embeddings of what its encoder reads, the ends among them. token_rows [B, T, C] stand in
    for the rows of the token embedding, to differentiate by them or to put others there; `ngrams` [B, K]
    for what the n-grams of an encoder add to its logits. `weights` (by the names of the model's
    parameters) stand in for the model's own, which are read without gradients.
    Raises ValueError naming the argument that does not fit.
    """
    ids = as_tokens(model, tokens)
    kinds = _as_types(model, types, ids)
    if weights is None:
        weights = weights_of(model, dtype)
    shape = [*ids.shape, model.config.width]
    if token_rows is not None and list(token_rows.shape) != shape:
        raise ValueError(f"trace: token_rows has shape {list(token_rows.shape)}, expected {shape}")
    if source is not None and not isinstance(model, EncoderDecoder):
        raise ValueError("explain: source is given, and the model reads none")
    if isinstance(model, Decoder):
        return decoder_trace.decoder(model, ids, token_rows, weights, logits)
    if isinstance(model, DecoderClassifier):
        return decoder_trace.classifier(model, ids, token_rows, weights, logits)
    if isinstance(model, EncoderDecoder):
        packed = as_source(model, source)
        shape = [len(ids), len(packed.tokens), model.config.width]
        if source_rows is not None and list(source_rows.shape) != shape:
            raise ValueError(
                f"trace: source_rows has shape {list(source_rows.shape)}, expected {shape}"
            )
        return encoder_decoder_trace.encoder_decoder(
            model, ids, packed, source_rows, token_rows, weights, logits
        )
    return encoder_trace.encoder(model, ids, kinds, token_rows, ngrams, weights, logits)


def layers_of(model: Model) -> ModelConfig | EncoderConfig | EncoderDecoderConfig:
    """The config that says what a layer is like."""
    return model.config.decoder if isinstance(model, DecoderClassifier) else model.config


def task_of(model: Model) -> str | None:
    """What it classifies; None where it does not."""
    return None if isinstance(model, Decoder | EncoderDecoder) else model.config.task


def token_table(model: Model) -> str:
    """The name of the token embedding."""
    if isinstance(model, Encoder):
        return "token_weight"
    return (
        "decoder.embedding.weight" if isinstance(model, DecoderClassifier) else "embedding.weight"
    )


def as_tokens(model: Model, tokens: Tokens) -> Tensor:
    """Tokens as [B, T] int64, checked."""
    if not isinstance(model, Model):
        raise ValueError(
            f"explain: model is a {type(model).__name__}, expected a Decoder, DecoderClassifier,"
            " Encoder or EncoderDecoder"
        )
    ids = torch.as_tensor(tokens)
    if ids.numel() == 0:
        raise ValueError("explain: tokens is empty, expected at least one")
    ids = ids[None] if ids.dim() == 1 else ids
    config = model.config
    check_tokens(type(model).__name__, ids, config.context)
    if isinstance(config, EncoderConfig) and config.ngram_tokens is not None:
        if ids.shape[1] > config.max_tokens:  # the n-grams read more, but no layer does
            raise ValueError(
                f"explain: tokens has {ids.shape[1]} positions, of which the layers read"
                f" max_tokens={config.max_tokens}; expected at most as many"
            )
    if not 0 <= int(ids.min()) <= int(ids.max()) < model.config.vocab_size:
        raise ValueError(
            f"explain: tokens holds {int(ids.min())} to {int(ids.max())}, expected"
            f" 0 to {model.config.vocab_size - 1}"
        )
    return ids


def as_source(model: EncoderDecoder, source: Source | None) -> Packed:
    """What the encoder reads of one source, checked."""
    if source is None:
        raise ValueError("explain: source is not given, and the model reads one")
    most, config = 0, model.config
    for part in source:
        ids = torch.as_tensor(part)
        if ids.dim() != 1 or (ids.numel() and ids.dtype != torch.int64):
            raise ValueError(f"explain: source is {source!r}, expected lists of tokens")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < config.vocab_size:
            raise ValueError(
                f"explain: source holds {int(ids.min())} to {int(ids.max())}, expected 0 to"
                f" {config.vocab_size - 1}"
            )
        most = max(most, len(ids))
    if most >= config.context:
        raise ValueError(
            f"explain: source has {most} tokens and an end, the context is {config.context}"
        )
    packed: Packed = model.pack_sources([source])
    return packed


def _as_types(model: Model, types: Tokens | None, ids: Tensor) -> Tensor | None:
    """Types as [B, T] int64, checked; those of one text hold for all."""
    if types is None:
        return None
    count = model.config.types if isinstance(model, Encoder) else 0
    kinds = torch.as_tensor(types)
    if not count:
        raise ValueError("explain: types is given, and this model has none")
    if kinds.shape not in (ids.shape, ids.shape[1:]):
        raise ValueError(
            f"explain: types has shape {list(kinds.shape)}, expected {list(ids.shape)} as tokens"
        )
    if not 0 <= int(kinds.min()) <= int(kinds.max()) < count:
        raise ValueError(
            f"explain: types holds {int(kinds.min())} to {int(kinds.max())}, expected 0 to"
            f" {count - 1}"
        )
    return kinds.expand_as(ids)


def weights_of(model: Model, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The parameters by name, without gradients; those of adapters are added to what they adapt."""
    return {name: value.detach().to(dtype) for name, value in merged_state(model).items()}


def dtype_for(model: Model) -> torch.dtype:
    """float64 where the weights are few: then 6 digits are the same for any number of threads."""
    few = sum(parameter.numel() for parameter in model.parameters()) <= _FEW
    return torch.float64 if few else torch.float32
