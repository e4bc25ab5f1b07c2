"""The fused ops, as torch custom ops (`torch.ops.fusedlm.*`) with these functions in front."""

import torch  # noqa: F401  (first: both then share torch's OpenMP runtime)

from .attention import attention
from .embedding import embedding
from .ffn import ffn
from .layer_norm import layer_norm
from .linear import linear
from .rms_norm import rms_norm

__all__ = ["attention", "embedding", "ffn", "layer_norm", "linear", "rms_norm"]
