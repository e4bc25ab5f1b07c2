"""docs/determinism.md: what has the same bits."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.support.child import ROOT, environment
from tests.support.commands import must
from tests.support.compare import results_by_threads
from tests.support.trained import trained

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_has_the_same_bits_for_any_number_of_threads(isa, dtype):
    if isa == "simt":
        pytest.skip("the emulator takes minutes; its kernels are compared op by op")
    digests = results_by_threads(lambda: trained(dtype), counts=(1, 2, 3))
    assert len(set(digests)) == 1


def test_another_draw_would_be_noticed():
    assert trained(torch.float32, 1) != trained(torch.float32, 1, dropout=0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_processes_train_the_same_bits(dtype):
    command = [sys.executable, "-m", "tests.support.trained", str(dtype).removeprefix("torch.")]
    first, second = (must(*command, n, env=environment(), cwd=ROOT).split()[-1] for n in (1, 2))
    assert first == second == trained(dtype)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_and_eager_train_the_same_bits_without_dropout(backend, dtype):
    torch._dynamo.reset()
    assert trained(dtype, 2, backend, dropout=0.0) == trained(dtype, 2, dropout=0.0)
