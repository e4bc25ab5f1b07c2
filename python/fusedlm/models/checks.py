"""What decoders and encoders refuse alike: dtypes and tokens."""

from __future__ import annotations

import torch
from torch import Tensor

COMPUTE_DTYPES = (torch.float32, torch.bfloat16)


def check_dtype(model: str, name: str, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, if activations can have it; ValueError naming model and argument if not."""
    if dtype not in COMPUTE_DTYPES:
        raise ValueError(f"{model}: {name} is {dtype}, expected torch.float32 or torch.bfloat16")
    return dtype


def check_tokens(model: str, tokens: Tensor, context: int) -> None:
    """tokens are [B, T] int64, neither 0, T at most the context."""
    shape = list(tokens.shape)
    if tokens.dim() != 2 or 0 in shape:
        raise ValueError(f"{model}: tokens has shape {shape}, expected [B, T], both above 0")
    if tokens.dtype != torch.int64:
        raise ValueError(f"{model}: tokens has dtype {tokens.dtype}, expected torch.int64")
    if shape[1] > context:
        raise ValueError(f"{model}: tokens has {shape[1]} positions, the context is {context}")
