"""Embedding, linear layer and the two norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusedlm import ops

from .adapter import Adapter


def normal(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter drawn as in GPT-2."""
    return nn.Parameter(torch.empty(*shape).normal_(std=std))


class Embedding(nn.Module):
    """Token embedding [V, C], plus a learned position embedding [P, C] if `positions` is P > 0."""

    def __init__(self, vocab_size: int, width: int, positions: int = 0) -> None:
        super().__init__()
        self.weight = normal(vocab_size, width)
        self.position_weight = normal(positions, width) if positions else None

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        dtype: torch.dtype | None = None,
        weight: Tensor | None = None,
        sparse_grad: bool = False,
    ) -> Tensor:
        """`weight` stands in for this module's own, as `ops.tied` gives it."""
        learned = self.position_weight is not None
        return ops.embedding(
            tokens,
            self.weight if weight is None else weight,
            position_weight=self.position_weight,
            positions=positions if learned else None,
            dtype=dtype,
            sparse_grad=sparse_grad,
        )


class Linear(nn.Module):
    """x [..., K] -> activation(x W^T + b) [..., N], W [N, K]; plus what an `adapter` adds, if there is one."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, std: float = 0.02,
        activation: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = normal(outputs, inputs, std=std)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.activation = activation
        self.adapter: Adapter | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [..., K] -> [..., O], plus `residual` [..., O]: one call of `ops.linear`."""
        if self.adapter is not None:
            residual = self.adapter(x, residual)
        return ops.linear(x, self.weight, self.bias, activation=self.activation, residual=residual)


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019. With `residual` returns (norm(x + residual), x + residual)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """x [..., C] -> [..., C] by `ops.rms_norm`; (norm, sum) with `residual`."""
        return ops.rms_norm(x, self.weight, self.eps, residual=residual)


class LayerNorm(nn.Module):
    """Ba et al. 2016. With `residual` returns (norm(x + residual), x + residual)."""

    def __init__(self, width: int, eps: float = 1e-5, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """x [..., C] -> [..., C] by `ops.layer_norm`; (norm, sum) with `residual`."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps, residual=residual)
