"""The position-wise feed-forward layer, plain or gated (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusedlm import ops

from .basic import normal

GATED = ("swiglu", "geglu")


class FeedForward(nn.Module):
    """x [..., C] -> down(activation(up(x))), or down(act(gate(x)) * up(x)) if gated."""

    def __init__(
        self, width: int, ffn_width: int, *, activation: str = "gelu", bias: bool = True,
        out_std: float = 0.02,
    ) -> None:  # fmt: skip
        super().__init__()
        gated = activation in GATED
        zeros = lambda n, wanted=True: nn.Parameter(torch.zeros(n)) if bias and wanted else None  # noqa: E731
        self.activation = activation
        self.up_weight = normal(ffn_width, width)
        self.gate_weight = normal(ffn_width, width) if gated else None
        self.down_weight = normal(width, ffn_width, std=out_std)
        self.up_bias = zeros(ffn_width)
        self.gate_bias = zeros(ffn_width, gated)
        self.down_bias = zeros(width)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
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
