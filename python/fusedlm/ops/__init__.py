"""The fused ops, as torch custom ops (`torch.ops.fusedlm.*`) with these functions in front."""

import torch  # noqa: F401  (first: both then share torch's OpenMP runtime)

from .adamw import adamw_step_, grad_norm
from .attention import attention, attention_qkv
from .cross_entropy import cross_entropy
from .embedding import embedding
from .ffn import ffn
from .group_norm import group_norm
from .layer_norm import layer_norm
from .linear import linear
from .linear_cross_entropy import linear_cross_entropy
from .quantized_linear import WEIGHT_FORMATS, QuantizedWeight, quantize, quantized_linear
from .rms_norm import rms_norm
from .rope import rope, rope_tables
from .sampling import sample
from .scaled_dot_product_attention import scaled_dot_product_attention
from .tied import tied

__all__ = [
    "WEIGHT_FORMATS",
    "QuantizedWeight",
    "adamw_step_",
    "attention",
    "attention_qkv",
    "cross_entropy",
    "embedding",
    "ffn",
    "grad_norm",
    "group_norm",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "quantize",
    "quantized_linear",
    "rms_norm",
    "rope",
    "rope_tables",
    "sample",
    "scaled_dot_product_attention",
    "tied",
]
