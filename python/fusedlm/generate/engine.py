"""A torch `Decoder` on the engine: its weights are handed over, and taken again when they change."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusedlm import _core
from fusedlm.models.decoder import Decoder
from fusedlm.models.lora import merged_state

MOST_RUNNING = 16

# Of each decoder: what its parameters were, and the engine's model made of them.
_models: weakref.WeakKeyDictionary[Decoder, tuple[Any, _core.Model]] = weakref.WeakKeyDictionary()


def generator_of(
    decoder: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> _core.Generator:
    """A generator with room for these prompts, running what `decoder` is now.

    The weights are converted to bfloat16 where that is the compute dtype, and shared otherwise.
    Raises NotImplementedError for a decoder on a GPU.
    """
    context = decoder.config.context
    needed = sorted(min(context, len(prompt) + max_new_tokens) for prompt in prompts)
    page = _core.Engine.page_tokens
    room = sum(-(-tokens // page) * page for tokens in needed[-MOST_RUNNING:])
    engine = _core.Engine(
        _model_of(decoder), dtype=_name(decoder.compute_dtype), cache_tokens=max(room, context)
    )
    return _core.Generator(engine, most_running=MOST_RUNNING)


def _model_of(decoder: Decoder) -> _core.Model:
    parameters = list(decoder.state_dict().values())
    device = parameters[0].device
    if device.type != "cpu":
        raise NotImplementedError(
            f"generate: the model is on {device}, and generation runs on the CPU; move a copy there "
            "with model.to('cpu')"
        )
    state = (decoder.compute_dtype, [_mark(value) for value in parameters])
    known = _models.get(decoder)
    if known is None or known[0] != state:
        bfloat16 = decoder.compute_dtype == torch.bfloat16
        made = _core.Model.from_tensors(
            decoder.config.to_dict(), merged_state(decoder), "bfloat16" if bfloat16 else None
        )
        known = _models[decoder] = (state, made)
    return known[1]


def _mark(value: Tensor) -> tuple[int, int]:
    """Changes when the tensor is replaced or written to."""
    return value.data_ptr(), value._version


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
