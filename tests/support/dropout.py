"""Which weights the dropout of attention keeps: a float64 reference needs the same ones."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedlm import ops


def dropout_mask(B: int, T: int, S: int, H: int, p: float, seed: int | None) -> Tensor:
    """[B, H, T, S], read off with one-hot values and equal scores."""
    query, key = torch.zeros(B, T, H, S), torch.zeros(B, S, H, S)
    value = torch.eye(S)[None, :, None, :].expand(B, S, H, S)
    out = ops.attention(query, key, value, dropout_p=p, seed=seed)  # [B, T, H, S]
    return out.transpose(1, 2) * S * (1 - p) > 0.5
