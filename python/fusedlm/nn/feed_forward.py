"""The position-wise feed-forward layer, plain or gated (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusedlm import _rules, ops

from .adapter import Adapter
from .basic import normal

# In plain torch, by the names of the kernels.
PLAIN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class FeedForward(nn.Module):
    """x [..., C] -> down(activation(up(x))), or down(act(gate(x)) * up(x)) if gated."""

    def __init__(
        self, width: int, ffn_width: int, *, activation: str = "gelu", bias: bool = True,
        out_std: float = 0.02,
    ) -> None:  # fmt: skip
        super().__init__()
        if activation not in _rules.FFN_ACTIVATIONS:
            raise ValueError(
                f"FeedForward: activation is {activation!r}, expected one of"
                f" {tuple(_rules.FFN_ACTIVATIONS)}"
            )
        gated = _rules.is_gated(activation)

        def zeros(n: int, wanted: bool = True) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(n)) if bias and wanted else None

        self.activation = activation
        self.up_weight = normal(ffn_width, width)
        self.gate_weight = normal(ffn_width, width) if gated else None
        self.down_weight = normal(width, ffn_width, std=out_std)
        self.up_bias = zeros(ffn_width)
        self.gate_bias = zeros(ffn_width, gated)
        self.down_bias = zeros(width)
        self.up_adapter: Adapter | None = None
        self.gate_adapter: Adapter | None = None
        self.down_adapter: Adapter | None = None

    @property
    def adapted(self) -> bool:
        """Whether any of the three matrices has an adapter of low rank."""
        return any((self.up_adapter, self.gate_adapter, self.down_adapter))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [..., C] -> [..., C], plus `residual` of the same shape: one call of `ops.ffn` without adapters."""
        if self.adapted:
            return self._adapted(x, residual)
        return ops.ffn(
            x,
            self.up_weight,
            self.down_weight,
            gate_weight=self.gate_weight,
            up_bias=self.up_bias,
            gate_bias=self.gate_bias,
            down_bias=self.down_bias,
            activation=self.activation,
            residual=residual,
        )

    def _adapted(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The products one by one, each with what its adapter adds."""
        activation = PLAIN_ACTIVATIONS[
            _rules.ffn_activation(self.activation, self.gate_weight is not None)
        ]

        def product(
            x: Tensor, weight: Tensor, bias: Tensor | None, adapter: Adapter | None,
            residual: Tensor | None = None,
        ) -> Tensor:  # fmt: skip
            if adapter is not None:
                residual = adapter(x, residual)
            return ops.linear(x, weight, bias, residual=residual)

        hidden = product(x, self.up_weight, self.up_bias, self.up_adapter)
        if self.gate_weight is None:
            hidden = activation(hidden)
        else:
            gate = product(x, self.gate_weight, self.gate_bias, self.gate_adapter)
            hidden = activation(gate) * hidden
        return product(hidden, self.down_weight, self.down_bias, self.down_adapter, residual)
