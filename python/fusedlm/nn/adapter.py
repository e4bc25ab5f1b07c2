"""Low-rank adapters (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from fusedlm import ops
from fusedlm._sharded import whole


class Adapter(nn.Module):
    """What is added to a product x W^T: for some blocks of the rows of W, scale * dropout(x) A^T B^T.

    `rows` are the sizes of the blocks, by name, in order; query, key and value are three blocks of one
    W. Those in `targets` get an A [rank, inputs], drawn, and a B [rows, rank], zeros, so that at first
    nothing is added. scale is alpha / rank.
    """

    def __init__(
        self, inputs: int, rows: dict[str, int], targets: set[str], *, rank: int, alpha: float,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rows = dict(rows)
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for name in rows:
            if name in targets:
                drawn = torch.empty(rank, inputs).uniform_(-1, 1) / math.sqrt(inputs)
                self.a[name] = nn.Parameter(drawn)
                self.b[name] = nn.Parameter(torch.zeros(rows[name], rank))

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., sum of rows] like x; with `residual`, added to it."""
        if self.dropout and self.training:
            x = dropout(x, self.dropout)
        low = ops.linear(x, torch.cat(list(self.a.values())))  # one product for all blocks
        parts, at = [], 0
        for name, rows in self.rows.items():
            if name not in self.b:
                parts.append(x.new_zeros(*x.shape[:-1], rows))
                continue
            parts.append(ops.linear(low[..., at : at + self.rank], self.b[name] * self.scale))
            at += self.rank
        added = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return added if residual is None else added + residual

    @torch.no_grad()
    def delta(self) -> Tensor:
        """[sum of rows, inputs] float32: what merging adds to W."""
        first = next(iter(self.a.values()))
        parts = [
            self.scale * (whole(self.b[name]) @ whole(self.a[name]))
            if name in self.b
            else torch.zeros(rows, first.shape[1], device=first.device)
            for name, rows in self.rows.items()
        ]
        return torch.cat(parts)
