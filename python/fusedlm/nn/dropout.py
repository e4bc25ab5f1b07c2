"""Dropout (Srivastava et al. 2014) with a quarter of torch's random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, p: float) -> Tensor:
    """x with a share p of its elements zero and the others times 1 / (1 - p).

    On the CPU torch draws 64 bits an element, one after the other: a sixth of a training step. Here
    an element has 16 of them, which makes p a multiple of 2^-16. The same for any number of threads.
    """
    if not x.is_cpu or torch.compiler.is_compiling():
        return F.dropout(x, p)
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device="cpu").random_(
        -(2**63), None
    )
    bits = drawn.view(torch.int16)[: x.numel()].view(x.shape)  # evenly from -2^15 to 2^15 - 1
    kept = (bits >= round(p * 2**16) - 2**15).to(x.dtype)
    return x * kept.mul_(1 / (1 - p))
