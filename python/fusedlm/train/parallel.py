"""One run on several processes, as torchrun starts them: who takes which batch, and what adds up.

A step's batches are dealt out in turn: rank r of R takes batches r, r + R, ... of the `accumulate` ones,
whole, so that a step of R ranks is that of one process, in another order of addition. Every rank has
the same weights before and after a step; with "ddp" (Li et al. 2020, arXiv:2006.15704) a copy of them,
with "fsdp" (Zhao et al. 2023, arXiv:2304.11277; torch's fully_shard) a part of each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fusedlm
from fusedlm._sharded import is_sharded, rank, ranks

from .config import TrainConfig
from .task import BatchSource, Task

T = TypeVar("T")
# Of a float32 parameter that is trained: itself, its gradient, two averages of AdamW.
_BYTES_TRAINED, _BYTES_FROZEN = 16, 4


def start() -> None:
    """Joins the processes that torchrun started. Nothing to do for one that is alone or has joined."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())
    # Numbers of the loop go over gloo from the CPU, so that no rank waits for its GPU to send one.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")


def finish() -> None:
    """Leaves the other processes, once all of them are here."""
    if dist.is_initialized():
        any_of(False)
        dist.destroy_process_group()


def device() -> torch.device:
    """Where this rank computes."""
    if torch.cuda.is_available() and fusedlm.cuda_compiled():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def share(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """(item, whether it counts) for this rank's part of `items`, dealt out in turn.

    All ranks get as many, since sharded models are computed by all at once: those that would get one
    less get another's again, which does not count.
    """
    iterator = iter(items)
    while group := list(islice(iterator, ranks())):
        yield group[min(rank(), len(group) - 1)], rank() < len(group)


def collect(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """What all ranks found for items dealt out in turn, in the order of the items: `share` undone.

    Sums over them are then the same bits for any number of ranks.
    """
    if ranks() == 1:
        return rows
    mine = torch.tensor(rows, dtype=torch.float64)
    found = [torch.empty_like(mine) for _ in range(ranks())]
    dist.all_gather(found, mine)
    return [tuple(row) for turn in torch.stack(found, 1).tolist() for row in turn]


def any_of(flag: bool) -> bool:
    """Whether it is set on any rank: all decide alike. Also waits for all."""
    return any(value for (value,) in collect([(float(flag),)]))


def check_same(**values: Any) -> None:
    """Raises ValueError on all ranks where one has another value than rank 0."""
    if ranks() == 1:
        return
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, values)
    for number, others in enumerate(found):
        for name in values:
            if others[name] != found[0][name]:
                raise ValueError(
                    f"train: rank {number} has {name} {others[name]!r}, rank 0 {found[0][name]!r};"
                    " start all ranks with the same command and files"
                )


def deal(batches: BatchSource, accumulate: int) -> list[Any]:
    """This rank's batches of the next `accumulate`; those of others are passed over."""
    skip = getattr(batches, "skip", batches.next)
    mine = []
    for number in range(accumulate):
        if number % ranks() == rank():
            mine.append(batches.next())
        else:
            skip()
    return mine


@contextlib.contextmanager
def contact(last: Path) -> Iterator[None]:
    """Names what has happened where another rank ends in the middle of the run."""
    try:
        yield
    except RuntimeError as error:
        if ranks() == 1 or not _is_of_the_network(error):
            raise
        left = f"; go on from {last} with --resume" if last.exists() else ""
        raise ConnectionError(
            f"train: lost contact with another of the {ranks()} ranks, which has ended or cannot be"
            f" reached; its own output says why{left}"
        ) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        w in text for w in ("gloo", "nccl", "connection")
    )


class _Entry(nn.Module):
    """The model, called through a function: DDP and FSDP see its parameters come and go, whatever
    methods of it a task calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Parallel:
    """A task on this rank: the loss of its batches and its evaluation, with `how` "ddp" or "fsdp".

    "auto" is ddp where parameters, gradients and optimizer fit half of a rank's memory.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task, model = task, task.model
        self._entry: Any  # an _Entry as DDP or FSDP make one of it
        self.how = "alone"
        if ranks() == 1:
            return
        if config.accumulate % ranks():
            raise ValueError(
                f"train: accumulate is {config.accumulate}, expected a multiple of the {ranks()} ranks:"
                " each takes whole batches of a step"
            )
        self.how = _choose(model, config.parallel)
        if self.how == "ddp":
            self._entry = _replicate(model.to(device()))
        else:
            self._entry = _shard(model)

    @property
    def saves(self) -> bool:
        """Whether this rank is needed to write a checkpoint: all are that hold a part."""
        return rank() == 0 or self.how == "fsdp"

    def backward(self, batch: Any, share: float, last: bool) -> Tensor:
        """Adds `share` of the batch's loss to the gradients; with the last, ranks add up theirs.

        Returns the loss.
        """
        if self.how == "alone":
            loss, part = self._loss(batch, share)
        else:
            if self.how == "ddp":
                # Of FSDP the ranks add up after each batch: whole gradients would not fit.
                self._entry.require_backward_grad_sync = last
            loss, part = self._entry(self._loss, batch, share * ranks())  # both divide by the ranks
        part.backward()
        return loss

    def _loss(self, batch: Any, share: float) -> tuple[Tensor, Tensor]:
        loss = self.task.loss(batch)
        return loss.detach(), loss * share

    def evaluate(self) -> dict[str, float]:
        """The task's numbers, the same on all ranks."""
        if self.how == "alone":
            return self.task.evaluate()
        if self.how == "ddp":
            found = self.task.evaluate()
        else:
            found = self._entry(self.task.evaluate)
            for module in self._entry.modules():
                if callable(reshard := getattr(module, "reshard", None)):
                    reshard()
        first = collect([tuple(found.values())])[0]
        return dict(zip(found, first, strict=True))


def gets_parts(model: nn.Module, how: str) -> bool:
    """Whether rank 0 will hand out a model like this, so that here its parameters may be on the meta
    device. Where "auto" is to decide, all ranks have to ask."""
    return ranks() > 1 and _choose(model, how) == "fsdp" and rank() > 0


def _choose(model: nn.Module, how: str) -> str:
    if how != "auto":
        return how
    need = sum(
        p.numel() * (_BYTES_TRAINED if p.requires_grad else _BYTES_FROZEN)
        for p in model.parameters()
    )
    if device().type == "cuda":
        memory = torch.cuda.get_device_properties(device()).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "fsdp" if any_of(need > memory // 2) else "ddp"


def _replicate(model: nn.Module) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():  # broadcast_buffers will be called something else
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            _Entry(model), broadcast_buffers=False, gradient_as_bucket_view=True
        )


def _give_memory_back() -> None:
    """Weights that come and go must not stay in the heap, where glibc keeps what was freed once it has
    seen buffers of their size: from 1 MiB each gets pages of its own."""
    threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).mallopt(threshold, 2**20)


def _shard(model: nn.Module) -> nn.Module:
    """Every block's parameters are together only while the block computes, the others' all step long.

    All ranks get their parts of rank 0's model; what the others have may be on the meta device.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    if device().type == "cpu":
        _give_memory_back()
    given = {name: parameter.detach() for name, parameter in model.named_parameters()}
    mesh = init_device_mesh(device().type, (ranks(),))
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    entry = _Entry(model)
    fully_shard(entry, mesh=mesh)
    parts = {}
    for name, parameter in model.named_parameters():
        assert is_sharded(parameter)
        full = given.pop(name)
        full = full.to(device()) if rank() == 0 else torch.empty_like(full, device=device())
        parts[name] = distribute_tensor(full, mesh, parameter.placements)
    model.load_state_dict(parts, strict=False, assign=True)
    return entry
