"""What holds for any call: as accurate as torch, no input changed, the same bits for any number of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fusedlm
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import results_by_threads
from tests.support.drawn import Case

Call = Callable[..., Tensor | tuple[Tensor, ...]]

# Beyond twice torch's error, as a part of the terms that a result is a sum of: two roundings, one of what
# is kept for the backward and one of the result. In a small tensor torch may be lucky in both. In float32
# as much as in all other tests.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@contextlib.contextmanager
def kernels_of(isa: str) -> Iterator[None]:
    if isa == "cuda":
        with torch.device("cuda"):
            yield
        return
    before = fusedlm.isa()
    fusedlm.set_isa(isa)
    try:
        yield
    finally:
        fusedlm.set_isa(before)


def placed(isa: str, value: Any) -> Any:
    """A tensor, or what a dict or list holds, as `copy_of` it on the GPU if that is where `isa` runs."""
    if isinstance(value, dict):
        return {name: placed(isa, v) for name, v in value.items()}
    if isinstance(value, list):
        return [placed(isa, v) for v in value]
    return copy_of(value, "cuda") if isa == "cuda" and isinstance(value, Tensor) else value


def copy_of(t: Tensor, device: str | torch.device) -> Tensor:
    """The same view of a copy of the whole memory."""
    memory = memory_of(t).to(device, copy=True).view(t.dtype)
    return memory.as_strided(t.shape, t.stride(), t.storage_offset())


def check(case: Case, ours: Call, theirs: Call) -> None:
    """`ours` and `theirs` take the case's tensors and options by name."""
    tensors, arriving, options = (
        placed(case.isa, part) for part in (case.tensors, case.arriving, case.options)
    )
    case = replace(case, tensors=tensors, arriving=arriving, options=options)
    with torch.device("cuda") if case.isa == "cuda" else contextlib.nullcontext():
        _check(case, ours, theirs)


def _check(case: Case, ours: Call, theirs: Call) -> None:
    memory = [memory_of(t) for t in _all_tensors(case)]
    before = [m.clone() for m in memory]
    with kernels_of(case.isa):
        once, twice = results_by_threads(lambda: results(case, ours), counts=(1, 2))
    for name, a, b in zip(_all_names(case), memory, before, strict=True):
        assert torch.equal(a, b), f"{name} was changed"
    assert once.keys() == twice.keys()
    for name, value in once.items():
        assert same_bits(value, twice[name]), f"{name} depends on the number of threads"

    plain, exact = results(case, theirs, None), results(case, theirs, torch.float64)
    assert once.keys() == plain.keys()
    for name, value in once.items():
        assert_accurate(case, name, value, plain[name], exact[name])


def assert_accurate(case: Case, name: str, ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    if not torch.isfinite(
        exact
    ).all():  # the mean of nothing, whose gradients are 0 as torch's own are
        assert ours.isnan().all() if name.startswith("out") else not ours.any(), f"{name}: {ours}"
        return
    scale = exact.abs().max().item() if exact.numel() else 0.0
    floor = case.floors.get(name, case.floors.get("", 1.0))
    eps = ROUNDING[case.dtype] * max(1.0, floor / scale if scale else 0.0)
    if scale == 0.0:  # what is left of terms that cancel altogether
        exact = exact + ROUNDING[case.dtype] * floor
        plain, eps = plain.to(ours.dtype), 1.0
    most = torch.finfo(ours.dtype).max
    if ROUNDING[case.dtype] * max(scale, floor) > most:  # rounding alone may be beyond the dtype
        ours = ours.clamp(-most, most)
    assert_as_accurate_as_torch(ours, plain, exact, name, eps)


def results(case: Case, call: Call, dtype: torch.dtype | str | None = "as laid out"):
    """Outputs and gradients by name. `dtype` None: of dense copies; another one: of copies in it."""

    def copied(t: Tensor) -> Tensor:
        if dtype == "as laid out":
            return t.detach()
        t = t.detach().clone(memory_format=torch.contiguous_format)
        return t if dtype is None or not t.is_floating_point() else t.to(dtype)

    leaves = {n: copied(t) for n, t in case.tensors.items()}
    for name in case.wanted:
        leaves[name].requires_grad_()
    options = {n: copied(v) if isinstance(v, Tensor) else v for n, v in case.options.items()}
    outs = call(**leaves, **options)
    outs = outs if isinstance(outs, tuple) else (outs,)
    pairs = zip(outs, case.arriving, strict=False)
    used = [(out, copied(g).to(out.dtype)) for out, g in pairs if out.requires_grad]
    if used:
        torch.autograd.backward([out for out, _ in used], [g for _, g in used])
    named = {f"out{i}": out.detach() for i, out in enumerate(outs)}
    named.update({f"d{n}": leaves[n].grad for n in sorted(case.wanted)})
    assert all(g is not None for g in named.values()), "a gradient is missing"
    return {n: t.to_dense() if t.is_sparse else t for n, t in named.items()}


def same_bits(a: Tensor, b: Tensor) -> bool:
    dense = [
        t.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8) for t in (a, b)
    ]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*dense)


def _all_tensors(case: Case) -> list[Tensor]:
    options = [v for v in case.options.values() if isinstance(v, Tensor)]
    return [*case.tensors.values(), *options, *case.arriving]


def _all_names(case: Case) -> list[str]:
    options = [n for n, v in case.options.items() if isinstance(v, Tensor)]
    return [*case.tensors, *options, *(f"arriving{i}" for i in range(len(case.arriving)))]


def memory_of(t: Tensor) -> Tensor:
    """All bytes of the tensor's storage, those beside the view too."""
    return torch.empty(0, dtype=torch.uint8, device=t.device).set_(t.untyped_storage())
