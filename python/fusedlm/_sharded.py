"""Tensors of which each rank holds a part (torch's DTensor), and the rank itself.

A plain tensor is its own part and its own whole, so that callers need not ask which they have.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard, overload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement


def rank() -> int:
    """Of this process among those that torchrun started; 0 of one that is alone."""
    distributed = _joined()
    return int(distributed.get_rank()) if distributed else 0


def ranks() -> int:
    distributed = _joined()
    return int(distributed.get_world_size()) if distributed else 1


def _joined() -> ModuleType | None:
    """torch.distributed, where this process is one of several; torch stays unloaded where it is."""
    distributed = sys.modules.get("torch.distributed")
    there = distributed and distributed.is_available() and distributed.is_initialized()
    return distributed if there else None


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This rank's part, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All parts together, detached. Every rank has to ask, for the same tensors in the same order."""
    detached = tensor.detach()
    return detached.full_tensor() if is_sharded(detached) else detached


def part_like(tensor: Tensor, full: Tensor) -> Tensor:
    """This rank's part of `full`, which every rank has, cut as `tensor` is."""
    if not is_sharded(tensor):
        return full
    return cut(full.to(tensor.device), tensor.device_mesh, tensor.placements).to_local()


def cut(full: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> DTensor:
    """The DTensor of `full`, which every rank has: nothing is sent, and each keeps a copy of its part."""
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    parts = everywhere.redistribute(placements=placements)
    return sharded_like(parts, parts.to_local().clone())


@overload
def sharded_like(tensor: DTensor, part: Tensor) -> DTensor: ...
@overload
def sharded_like(tensor: Tensor, part: Tensor) -> Tensor: ...
def sharded_like(tensor: Tensor, part: Tensor) -> Tensor:
    """The tensor, shaped and cut as `tensor` is, of which `part` is this rank's."""
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape,
        stride=tensor.stride(),
    )  # fmt: skip


def sum_of_parts(value: Tensor, tensor: Tensor) -> Tensor:
    """Of a scalar that each rank found for its part of `tensor`: the sum, once for what several hold."""
    if not is_sharded(tensor):
        return value
    mesh = tensor.device_mesh
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            value = value / mesh.size(dim)
    import torch.distributed

    value = value.clone()
    for dim in range(mesh.ndim):
        torch.distributed.all_reduce(value, group=mesh.get_group(dim))
    return value


def layout(tensor: Tensor) -> tuple[DeviceMesh, tuple[Placement, ...]] | None:
    """Equal for tensors that are cut the same way."""
    return (tensor.device_mesh, tensor.placements) if is_sharded(tensor) else None
