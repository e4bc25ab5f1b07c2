"""Workers of torch.utils.data and forks: a child computes what its parent does, and never waits."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fusedlm import ops
from tests.support.compare import randn

SECONDS = 20  # a child that waits for threads it does not have waits for ever


def compute(index: int = 0) -> torch.Tensor:
    """Large enough for several threads and for the arena."""
    x = randn(700, 512, seed=index).requires_grad_()
    weight = randn(512, 512, seed=1)
    y = ops.linear(ops.rms_norm(x, torch.ones(512)), weight)
    y.sum().backward()
    return y.detach().sum(0) + x.grad.sum(0)


class Computed(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return compute(index)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader_compute_the_same_bits(context):
    expected = torch.stack([compute(i) for i in range(6)])  # with all threads, before the fork
    loader = DataLoader(
        Computed(), batch_size=6, num_workers=1, multiprocessing_context=context, timeout=SECONDS
    )
    assert torch.equal(next(iter(loader)), expected)


def _ours(x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """Ops of ours alone: torch's own would wait for threads that a child lacks, too."""
    x = x.detach().requires_grad_()
    y = ops.linear(ops.rms_norm(x, torch.ones(512)), weight)
    y.backward(dy)
    return [y.detach(), x.grad]


def _child(queue, *tensors) -> None:
    queue.put([t.numpy() for t in _ours(*tensors)])


@pytest.mark.parametrize("busy", [False, True], ids=["idle parent", "parent at work in a thread"])
def test_a_forked_child_computes_after_its_parent_used_threads(busy):
    tensors = randn(700, 512, seed=0), randn(512, 512, seed=1), randn(700, 512, seed=2)
    expected, stop = _ours(*tensors), threading.Event()

    def work():
        while not stop.is_set():
            _ours(*tensors)

    worker = threading.Thread(target=work)
    if busy:
        worker.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(3):
            queue = context.Queue()
            child = context.Process(target=_child, args=(queue, *tensors), daemon=True)
            child.start()
            for result, wanted in zip(queue.get(timeout=SECONDS), expected, strict=True):
                assert torch.equal(torch.from_numpy(result), wanted)
            child.join(SECONDS)
            assert child.exitcode == 0
    finally:
        stop.set()
        if busy:
            worker.join()
    for result, wanted in zip(_ours(*tensors), expected, strict=True):
        assert torch.equal(result, wanted)  # the parent goes on with all its threads


def test_a_forked_child_has_one_thread_and_its_parent_all():
    code = """
import os, torch
from fusedlm import _core
torch.set_num_threads(2)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, str(_core.num_threads()).encode())
    os._exit(0)
os.wait()
print(os.read(read, 8).decode(), _core.num_threads())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.stdout.split() == ["1", "2"], done.stderr
