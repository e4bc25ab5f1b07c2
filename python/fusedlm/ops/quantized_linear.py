"""Matrices of weights in the formats of inference, and products with them. CPU, no gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import as_rows, core, empty

WEIGHT_FORMATS = (
    "float32", "float16", "bfloat16", "int8", "q8_0", "q4_0", "q4_1", "q4_k", "q6_k",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A matrix [rows, cols] in one of `WEIGHT_FORMATS`; made by `quantize`, or around bytes of a file.

    data: uint8 [rows, bytes of a row]; the formats with a "q" are GGUF's blocks. scales: float32 [rows],
    int8 alone.
    """

    data: Tensor
    format: str
    rows: int
    cols: int
    scales: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of data and scales together."""
        return self.data.numel() + (0 if self.scales is None else 4 * self.rows)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[rows, cols] float32 or bfloat16."""
        return self.rows_of(0, self.rows, dtype)

    def rows_of(self, first: int, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows first, first + 1, ... alone: [count, cols] float32 or bfloat16."""
        _on_the_cpu("dequantize", {"data": self.data, "scales": self.scales})
        out = empty((count, self.cols), dtype, self.data)
        core.dequantize(self._matrix, first, out)
        return out

    @property
    def _matrix(self) -> tuple[Tensor, str, int, int, Tensor | None]:
        return self.data, self.format, self.rows, self.cols, self.scales


def quantize(weight: Tensor, format: str) -> QuantizedWeight:
    """weight [rows, cols] float32 or bfloat16, as the nearest that `format` holds.

    Scales are those of the least squared error; the bytes are the same on every machine. cols is a multiple
    of 32 for q8_0, q4_0 and q4_1, of 256 for q4_k and q6_k. Raises ValueError where it is not, and for
    weights that are not finite.
    """
    _rules.check_rows("quantize", "weight", weight)
    _on_the_cpu("quantize", {"weight": weight})
    weight = as_rows(weight.detach())
    rows, cols = weight.shape
    data = empty((rows, core.weight_row_bytes(format, cols)), torch.uint8, weight)
    scales = empty((rows,), torch.float32, weight) if format == "int8" else None
    core.quantize(weight, format, data, scales)
    return QuantizedWeight(data, format, rows, cols, scales)


def _on_the_cpu(op: str, tensors: Mapping[str, Tensor | None]) -> None:
    for name, t in tensors.items():
        if t is not None and not t.is_cpu:
            raise NotImplementedError(
                f"{op}: {name} is on {t.device}, but quantised weights are the CPU's alone; move it there"
                " with .cpu(), or keep the weights in bfloat16 or float16 and call fusedlm.ops.linear"
            )


def quantized_linear(
    x: Tensor,
    weights: QuantizedWeight | Sequence[QuantizedWeight],
    bias: Tensor | Sequence[Tensor | None] | None = None,
    *,
    activation: str | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """activation(x [w0; w1; w2]^T + bias) + residual, or, `gated`, activation(x w0^T) * (x w1^T) + residual.

    x [..., K] float32 or bfloat16; up to 3 weights [N_i, K] of any formats share it; bias float32 [N_i],
    one for each weight; activation as in `linear`; residual [..., N] in `dtype`, which is that of the
    result (float32 or bfloat16, by default that of x). Returns [..., N_0 + N_1 + N_2] (gated: [..., N_0]).
    Up to 16 rows of x read the weights once, as they lie, and each row's result is the same bits as if
    it were alone. Raises ValueError naming the argument that does not fit, NotImplementedError where one
    is not on the CPU.
    """
    weights = [weights] if isinstance(weights, QuantizedWeight) else list(weights)
    if not weights:
        raise ValueError("quantized_linear: weights is empty, expected 1 to 3")
    biases: list[Tensor | None] = [None] * len(weights)
    if bias is not None:
        biases = [bias] if isinstance(bias, Tensor) else list(bias)
    if len(biases) != len(weights):
        raise ValueError(
            f"quantized_linear: bias holds {len(biases)}, expected {len(weights)} as weights"
        )
    _rules.check_rows("quantized_linear", "x", x)
    given: dict[str, Tensor | None] = {"x": x, "residual": residual}
    for i, (weight, of_weight) in enumerate(zip(weights, biases, strict=True)):
        given |= {f"weights[{i}]": weight.data, f"bias[{i}]": of_weight}
    _on_the_cpu("quantized_linear", given)
    kernel = _rules.linear_activation(activation)
    columns = weights[0].rows if gated else sum(w.rows for w in weights)
    rows = as_rows(x.detach())
    y = empty((rows.shape[0], columns), dtype or x.dtype, x)
    core.quantized_linear(
        rows,
        [w._matrix for w in weights],
        biases,
        None if residual is None else as_rows(residual),
        y,
        kernel,
        gated,
    )
    return y.view(*x.shape[:-1], columns)
