"""The yardstick of every numeric test: be about as close to the truth as torch is.

A fixed tolerance is either too wide to fail or too narrow for half precision. Here the truth is
the same computation in float64, and torch's own error on the same inputs sets what is allowed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_accurate_as_torch(
    ours: Tensor, torch_result: Tensor, reference64: Tensor, name: str, eps: float = 1e-5
) -> None:
    """Fail unless max|ours - reference| <= 2 max|torch - reference| + eps * scale.

    `scale` is the largest magnitude in the reference; it stands for rounding that torch may be
    lucky to avoid. Shapes, dtypes and finiteness are checked first, by name.
    """
    assert ours.shape == reference64.shape, (
        f"{name}: shape {tuple(ours.shape)}, expected {tuple(reference64.shape)}"
    )
    assert ours.dtype == torch_result.dtype, (
        f"{name}: dtype {ours.dtype}, expected {torch_result.dtype}"
    )
    if ours.numel() == 0:
        return
    truth = reference64.detach().double()
    assert torch.isfinite(truth).all(), f"{name}: the reference itself is not finite"
    assert torch.isfinite(ours).all(), f"{name}: has values that are not finite"
    error = (ours.detach().double() - truth).abs().max().item()
    torch_error = (torch_result.detach().double() - truth).abs().max().item()
    limit = 2 * torch_error + eps * truth.abs().max().item()
    assert error <= limit, (
        f"{name}: error {error:.3g} against float64, allowed {limit:.3g} "
        f"(torch's own error is {torch_error:.3g})"
    )
