"""One op against its plain twin: output and every gradient, by the rule of `accuracy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .accuracy import assert_as_accurate_as_torch

Call = Callable[[dict[str, Tensor]], Tensor | tuple[Tensor, ...]]
Result = TypeVar("Result")


def randn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """The same numbers on every device; on the default one, which is a GPU's in tests that run there."""
    on_cpu = torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return on_cpu.to(torch.get_default_device()) * scale


def here(value: Any) -> Any:
    """`value`, or each value of a dict, on the default device where it is a tensor: for those that are
    made when a test module is imported, which is always on the CPU."""
    if isinstance(value, dict):
        return {name: here(v) for name, v in value.items()}
    return value.to(torch.get_default_device()) if isinstance(value, Tensor) else value


def outputs_and_gradients(
    call: Call, inputs: dict[str, Tensor], grads: list[Tensor | None], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Runs `call` in `dtype`; grads[i] arrives at output i (None: nothing does)."""
    leaves = {name: t.to(dtype).detach().clone().requires_grad_() for name, t in inputs.items()}
    result = call(leaves)
    outs = list(result) if isinstance(result, tuple) else [result]
    used = [(o, g.to(o.dtype)) for o, g in zip(outs, grads, strict=True) if g is not None]
    torch.autograd.backward([o for o, _ in used], [g for _, g in used])
    named = {f"out{i}": out.detach() for i, out in enumerate(outs)}
    named.update({f"d{n}": t.grad for n, t in leaves.items() if t.grad is not None})
    return named


def assert_equals_float64(
    ours: Call,
    theirs: Call,
    inputs: dict[str, Tensor],
    grads: list[Tensor | None],
    dtype: torch.dtype,
) -> None:
    rounded = {name: t.to(dtype) for name, t in inputs.items()}
    grads = [None if g is None else g.to(dtype) for g in grads]
    got = outputs_and_gradients(ours, rounded, grads, dtype)
    plain = outputs_and_gradients(theirs, rounded, grads, dtype)
    exact = outputs_and_gradients(theirs, rounded, grads, torch.float64)
    assert got.keys() == plain.keys()
    for name, value in got.items():
        assert_as_accurate_as_torch(value, plain[name], exact[name], name)


def results_by_threads(call: Callable[[], Result], counts=(1, 2, 2)) -> list[Result]:
    """What `call` gives with each number of threads; the setting is put back."""
    before, results = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(call())
    finally:
        torch.set_num_threads(before)
    return results


def assert_same_bits(results: list[list[Tensor]]) -> None:
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
