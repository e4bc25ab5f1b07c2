"""The fused ops, as torch custom ops (`torch.ops.fusedlm.*`) with these functions in front."""

import torch  # noqa: F401  (first: both then share torch's OpenMP runtime)

from .ffn import ffn
from .linear import linear
from .rms_norm import rms_norm

__all__ = [
    "ffn",
    "linear",
    "rms_norm",
]
