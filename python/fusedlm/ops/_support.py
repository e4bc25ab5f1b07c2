"""What every op file needs: registration with torch.library, and the layouts the kernels take."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from fusedlm import _core as core

from ._once import Context, Function, backward_mode_only, once_differentiable

__all__ = [
    "Context",
    "as_rows",
    "autocast_dtype",
    "core",
    "define",
    "dense",
    "dense_last",
    "empty",
    "grad_dtype",
    "on_gpu",
    "rows_of",
    "same_autocast_dtype",
    "widened",
]

_library = torch.library.Library("fusedlm", "DEF")


def define(
    schema: str, impl: Function, fake: Function, *,
    setup_context: Callable[[Context, tuple[Any, ...], Any], None] | None = None,
    backward: Function | None = None, twice: bool = False,
) -> None:  # fmt: skip
    """Defines torch.ops.fusedlm.<name>: implementation, fake kernel and (optionally) autograd.

    `twice`: the backward is made of ops that have gradients themselves. Else a second derivative is
    refused.
    """
    name = "fusedlm::" + schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    if backward is not None:
        impl = backward_mode_only(name, impl)
    # What writes to its arguments must widen them itself, and write them back.
    on_cpu = impl if "!" in schema else _in_float32(impl, fake)
    torch.library.impl(name, "cpu", on_cpu, lib=_library)
    torch.library.impl(name, "cuda", on_cuda(name, impl), lib=_library)
    torch.library.register_fake(name, _on_one_device(name, fake), lib=_library)
    if backward is not None:
        if not twice:
            backward = once_differentiable(name, backward)
        torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_library)


def widened(x: Any) -> Any:
    """float16 as float32 where the kernels of the CPU are to take it; anything else is x itself.

    float16 has kernels on the GPU (and under its emulator) alone.
    """
    if isinstance(x, (list, tuple)):
        return [widened(t) for t in x]
    if x is torch.float16:
        return x if core.isa() == "simt" else torch.float32
    half = isinstance(x, Tensor) and x.dtype == torch.float16
    return x.float() if half and x.is_cpu and core.isa() != "simt" else x


def on_gpu(x: Tensor) -> bool:
    """Whether the kernels of a GPU take x, emulated or not (which torch.compile cannot look up)."""
    emulated = not torch.compiler.is_compiling() and x.is_cpu and core.isa() == "simt"
    return x.is_cuda or emulated


def _in_float32(impl: Function, fake: Function) -> Function:
    """`impl` with float16 arguments widened; results are rounded to the dtypes that `fake` gives."""

    def on_cpu(*args: Any) -> Any:
        if not _has_half(args):
            return impl(*args)
        results, like = impl(*map(widened, args)), fake(*args)
        if isinstance(results, Tensor):
            return results.to(like.dtype)
        return tuple(r.to(t.dtype) for r, t in zip(results, like, strict=True))

    return on_cpu


def _has_half(args: Sequence[Any]) -> bool:
    for x in args:  # a loop: half the microseconds of any(), on the way of every call
        if isinstance(x, Tensor):
            if x.dtype is torch.float16:
                return True
        elif x is torch.float16 or (isinstance(x, list) and _has_half(x)):
            return True
    return False


def on_cuda(name: str, impl: Function) -> Function:
    """`impl` for CUDA tensors: on their device, in torch's current stream, with scratch memory from
    torch's caching allocator, which gives it out again only behind the kernels in that stream."""

    def in_stream(*args: Any) -> Any:
        if not core.cuda_compiled:
            raise NotImplementedError(
                f"{name}: tensors are on cuda, but this build of fusedlm has no CUDA kernels;"
                " build with: pip install . -C cmake.define.FUSEDLM_CUDA=ON"
            )
        device = _one_device(name, args)
        stream = torch.cuda.current_stream(device).cuda_stream
        with torch.cuda.device(device), core.CudaCall(stream, functools.partial(_scratch, device)):
            return impl(*args)

    return in_stream


def _scratch(device: torch.device | None, size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=device)


def _on_one_device(name: str, fake: Function) -> Function:
    """Real tensors of CPU and GPU reach no kernel, but meta ones beside them would: refuse those."""

    def checked(*args: Any) -> Any:
        _one_device(name, args)
        return fake(*args)

    return checked


def _one_device(name: str, args: Sequence[Any]) -> torch.device | None:
    tensors = [t for a in args for t in (a if isinstance(a, (list, tuple)) else (a,))]
    devices = {t.device for t in tensors if isinstance(t, Tensor)}
    if len(devices) > 1:
        listed = " and ".join(sorted(str(d) for d in devices))
        raise ValueError(f"{name}: tensors are on {listed}, expected one device")
    return next(iter(devices), None)


# From here on a tensor is worth a block of the arena: 3 us more than the 2 us of torch.empty.
_ARENA_BYTES = 1 << 20


def empty(shape: Sequence[int], dtype: torch.dtype, like: Tensor) -> Tensor:
    """torch.empty for results, on the device of `like`.

    Large ones on the CPU reuse memory of the arena that is mapped already.
    """
    if not like.is_cpu:
        return like.new_empty(shape, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _ARENA_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    # Reshaped in place: a view would hold the flat tensor too, and autograd adds nothing in place to
    # memory that has two owners.
    return torch.frombuffer(core.ArenaBlock(size), dtype=dtype).resize_(shape)


def grad_dtype(weight: Tensor) -> torch.dtype:
    """In which dtype autograd wants the gradient of a parameter: its own, unless `grad_dtype` says so."""
    if torch.compiler.is_compiling() or not weight.is_leaf:
        return weight.dtype
    wanted = getattr(weight, "grad_dtype", None)
    return wanted if wanted in (torch.float32, torch.bfloat16, torch.float16) else weight.dtype


def dense_last(x: Tensor) -> Tensor:
    """x itself if its last dimension is contiguous, else a copy."""
    return x if x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous()


def as_rows(x: Tensor) -> Tensor:
    """x [..., C] as [N, C] with contiguous rows; a view wherever the strides allow."""
    return dense_last(x.reshape(-1, x.shape[-1]) if x.dim() != 2 else x)


def dense(t: Tensor | None) -> Tensor | None:
    """Contiguous, where it is there."""
    return None if t is None else t.contiguous()


def rows_of(x: Tensor) -> int:
    """N of `as_rows`, for fake tensors, too."""
    return math.prod(x.shape[:-1])


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast wants on the device of x; None where it is off."""
    kind = "cuda" if x.is_cuda else "cpu"
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


@overload
def same_autocast_dtype(x: Tensor, /) -> tuple[Tensor]: ...
@overload
def same_autocast_dtype(x: Tensor, y: Tensor, z: Tensor, /) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def same_autocast_dtype(x: Tensor, residual: Tensor | None, /) -> tuple[Tensor, Tensor | None]: ...
def same_autocast_dtype(x: Tensor, /, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """Activations in the autocast dtype where autocast is on; parameters are passed as they are."""
    tensors = (x, *others)
    dtype = autocast_dtype(x)
    if dtype is None:
        return tensors
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != dtype else t
        for t in tensors
    )
