"""The op tests run on a GPU where there is one (the fixture `isa`, "cuda"); here it says whether."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support.compare import randn
from tests.support.gpu import HAS_GPU, NO_GPU


@pytest.mark.skipif(not HAS_GPU, reason=NO_GPU)
def test_a_product_on_the_gpu_equals_that_of_the_cpu():
    x, weight = randn(70, 129, seed=0).bfloat16(), randn(65, 129, seed=1)
    on_gpu = ops.linear(x.cuda(), weight.cuda(), activation="gelu")
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), ops.linear(x, weight, activation="gelu"))
