"""CUDA tensors take the same way as those of the CPU. There is no GPU here: what torch would do for
one is played by the CPU, the kernels by the emulator."""

from __future__ import annotations

import contextlib
import weakref
from types import SimpleNamespace

import pytest
import torch

from fusedlm import _core as core
from fusedlm import ops
from fusedlm.nn import SelfAttention
from fusedlm.nn.dropout import dropout
from fusedlm.ops import _support
from fusedlm.ops.layer_norm import _backward as norm_backward
from fusedlm.optim import AdamW
from tests.support.compare import randn
from tests.support.every_op import CALLS, leaves_of

OPS = sorted(
    name.split(".")[0]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("fusedlm::")
)


@pytest.fixture
def gpu(monkeypatch):
    """torch as if the CPU were its GPU; what was asked of it is noted."""
    asked = SimpleNamespace(devices=[], streams=[], scratch=[])
    scratch = _support._scratch

    def current_stream(device):
        asked.streams.append(device)
        return SimpleNamespace(cuda_stream=0)

    def use_device(device):
        asked.devices.append(device)
        return contextlib.nullcontext()

    def noted_scratch(device, size):
        block = scratch(device, size)
        asked.scratch.append(weakref.ref(block))
        return block

    monkeypatch.setattr(core, "cuda_compiled", True)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.cuda, "device", use_device)
    monkeypatch.setattr(_support, "_scratch", noted_scratch)
    return asked


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_an_implementation_for_cpu_and_cuda_tensors(name):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has(name, "CPU") and has(name, "CUDA") and has(name, "Meta")


def test_there_are_ops():
    assert {"fusedlm::rope", "fusedlm::attention_backward", "fusedlm::adamw_step_"} <= set(OPS)


@pytest.mark.skipif(core.cuda_compiled, reason="this build has CUDA kernels")
def test_without_cuda_kernels_the_error_says_how_to_build_them():
    call = _support.on_cuda("fusedlm::rope", lambda *args: args)
    with pytest.raises(
        NotImplementedError, match=r"rope: tensors are on cuda.*cmake\.define\.FUSEDLM_CUDA=ON"
    ):
        call(torch.ones(1))


def test_results_and_fake_results_are_on_the_device_of_the_input():
    meta = torch.ones(3, device="meta")
    for size in (4, 1 << 20):
        assert _support.empty((size,), torch.float32, meta).device.type == "meta"
        assert _support.empty((size,), torch.float32, torch.ones(1)).device.type == "cpu"
    x, weight = torch.ones(3, 8, device="meta"), torch.ones(8, device="meta")
    assert ops.layer_norm(x, weight).device.type == "meta"


# The other calls make tensors of their own, which are where the default says.
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("rope", "attention")])
def test_the_default_device_does_not_matter_to_tensors_of_another(name):
    call = CALLS[name]
    both = []
    for default in ("cpu", "meta"):
        leaves = leaves_of(call, 7)
        with torch.device(default):
            out = call.run(**leaves)
            if call.differentiable:
                out.sum().backward()
        both.append([out, *(t.grad for t in leaves.values() if t.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_what_draws_or_keeps_a_state_does_not_go_by_the_default_device():
    layer, x = SelfAttention(16, 2, dropout=0.5), randn(2, 5, 16, seed=0)
    optimizer, logits = AdamW(layer.parameters()), randn(3, 9, seed=1)
    weight = randn(4, 32, seed=2)
    with torch.device("meta"):
        layer(x).sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        tokens = ops.sample(logits)
        kept = dropout(x, 0.5)
        held = [ops.quantize(weight, format) for format in ("int8", "q8_0")]
        y = ops.quantized_linear(weight, held)
    assert all(
        t.device.type == "cpu" for t in (tokens, kept, y, optimizer.state[layer.out.weight]["step"])
    )
    assert optimizer.state[layer.out.weight]["step"] == 2


def test_tensors_of_two_devices_are_refused(gpu):
    call = _support.on_cuda("fusedlm::rope", lambda *args: args)
    with pytest.raises(ValueError, match="rope: tensors are on cpu and meta, expected one device"):
        call(torch.ones(1), [torch.ones(1, device="meta")])


def norm_backward_arguments():
    x, dy, weight = randn(5, 8, seed=0), randn(5, 8, seed=1), randn(8, seed=2)
    _, _, mean, rstd = torch.ops.fusedlm.layer_norm(x, weight, None, None, 1e-5)
    return dy, x, weight, mean, rstd, None


def test_a_call_runs_in_the_stream_of_its_device_with_scratch_from_torch(gpu, simt):
    args = norm_backward_arguments()
    got = _support.on_cuda("fusedlm::layer_norm_backward", norm_backward)(*args)
    expected = torch.ops.fusedlm.layer_norm_backward(*args)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert gpu.devices == gpu.streams == [torch.device("cpu")]
    assert len(gpu.scratch) == 2 and all(block() is None for block in gpu.scratch)  # let go


def test_when_torch_has_no_memory_left_its_own_error_arrives(gpu, simt, monkeypatch):
    def nothing(device, size):
        raise torch.OutOfMemoryError("CUDA out of memory")

    args = norm_backward_arguments()
    call = _support.on_cuda("fusedlm::layer_norm_backward", norm_backward)
    with monkeypatch.context() as patch:
        patch.setattr(_support, "_scratch", nothing)
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            call(*args)
    assert len(call(*args)) == 3 and len(gpu.scratch) == 2  # the next call goes well


def test_autocast_goes_by_the_device():
    x = SimpleNamespace(is_cuda=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _support.autocast_dtype(torch.ones(1)) == torch.bfloat16
        assert _support.autocast_dtype(x) is None
    torch.set_autocast_enabled("cuda", True)
    try:
        assert _support.autocast_dtype(x) == torch.get_autocast_dtype("cuda")
        assert _support.autocast_dtype(torch.ones(1)) is None
    finally:
        torch.set_autocast_enabled("cuda", False)
