"""Fused forwards of torch's own layers: norms, linear, embedding.

A forward here has the signature of the layer's own and is called with the layer as `self`, which is Any
where layers of several classes of transformers share it. `original` is the layer's own forward, for what
the kernels do not take.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusedlm import ops

from .plain import FLOATS, Forward, same_dtype, takes


def layer_norm(original: Forward, self: nn.LayerNorm, input: Tensor) -> Tensor:
    if self.weight is None or len(self.normalized_shape) > 1 or not _norm_fits(self.weight, input):
        return original(input)
    y: Tensor = torch.ops.fusedlm.layer_norm(input, self.weight, self.bias, None, self.eps)[0]
    return y


def rms_norm(original: Forward, self: Any, x: Tensor) -> Tensor:
    if not _norm_fits(self.weight, x):
        return original(x)
    y: Tensor = torch.ops.fusedlm.rms_norm(x, rms_weight(self), None, rms_eps(self, x))[0]
    return y


def torch_rms_norm(original: Forward, self: nn.RMSNorm, x: Tensor) -> Tensor:
    if self.weight is None or len(self.normalized_shape) > 1:
        return original(x)
    return rms_norm(original, self, x)


def added_rms_norm(norm: Any, branch: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """(norm(branch + stream), branch + stream)."""
    if not _norm_fits(norm.weight, branch) or not same_dtype(branch, stream):
        stream = stream + branch
        return norm(stream), stream
    y, total, _ = torch.ops.fusedlm.rms_norm(
        branch, rms_weight(norm), stream, rms_eps(norm, branch)
    )
    return y, total


def added_layer_norm(norm: nn.LayerNorm, branch: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """(norm(branch + stream), branch + stream)."""
    if not _norm_fits(norm.weight, branch) or not same_dtype(branch, stream):
        stream = branch + stream
        return norm(stream), stream
    y, total, *_ = torch.ops.fusedlm.layer_norm(branch, norm.weight, norm.bias, stream, norm.eps)
    return y, total


def rms_weight(norm: Any) -> Tensor:
    """Gemma's norms are stored less 1."""
    weight: Tensor = norm.weight
    return weight.float() + 1.0 if type(norm).__name__.startswith("Gemma") else weight


def rms_eps(norm: Any, x: Tensor) -> float:
    eps: float | None = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return torch.finfo(x.dtype).eps if eps is None else eps


def _norm_fits(weight: Tensor, x: Tensor) -> bool:
    # Outside autocast's rules: a norm of float32 stays float32, as torch has it.
    return takes(weight) and x.dtype in FLOATS


def linear(original: Forward, self: nn.Linear, input: Tensor) -> Tensor:
    if not _product_fits(self.weight, input):
        return original(input)
    return ops.linear(input, self.weight, self.bias)


def conv1d(original: Forward, self: Any, x: Tensor) -> Tensor:
    """GPT-2's linear layer, whose weight is [in, out]."""
    if not _product_fits(self.weight, x):
        return original(x)
    return ops.linear(x, self.weight.t(), self.bias)


def _product_fits(weight: Tensor, x: Tensor) -> bool:
    """The dtypes that torch would multiply: the same, or any under autocast."""
    if not takes(weight) or x.dtype not in FLOATS:
        return False
    return x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)


def embedding(original: Forward, self: nn.Embedding, input: Tensor) -> Tensor:
    plain = self.max_norm is None and not self.scale_grad_by_freq and not self.sparse
    if not plain or not takes(self.weight) or input.dtype != torch.int64:
        return original(input)
    return ops.embedding(input, self.weight, padding_idx=self.padding_idx, dtype=self.weight.dtype)
