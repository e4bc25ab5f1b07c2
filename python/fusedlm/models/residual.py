"""What decoders and encoder-decoders have between their layers: norms that add to the stream."""

from __future__ import annotations

from torch import Tensor, nn

from fusedlm.nn import LayerNorm, RMSNorm

from .config import ModelConfig
from .encoder_decoder_config import EncoderDecoderConfig


def norm_of(config: ModelConfig | EncoderDecoderConfig) -> nn.Module:
    """A new norm as `config` has them; only LayerNorm has a bias."""
    if config.norm == "rms_norm":
        return RMSNorm(config.width, config.norm_eps)
    return LayerNorm(config.width, config.norm_eps, bias=config.bias)


def added(norm: nn.Module, branch: Tensor, stream: Tensor | None) -> tuple[Tensor, Tensor]:
    """(norm(branch + stream), branch + stream); at first the stream is the embedding."""
    return (norm(branch), branch) if stream is None else norm(branch, residual=stream)
