"""Modules on `fusedlm.ops`: parameters in float32, activations in float32 or bfloat16."""

from .attention import SelfAttention
from .basic import Embedding, LayerNorm, Linear, RMSNorm
from .cross_attention import CrossAttention
from .feed_forward import FeedForward
from .rope import Rope

__all__ = [
    "CrossAttention", "Embedding", "FeedForward", "LayerNorm", "Linear", "RMSNorm", "Rope", "SelfAttention",
]  # fmt: skip
