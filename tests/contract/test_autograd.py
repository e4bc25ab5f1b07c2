"""Second derivatives, functorch, checkpointing and autocast: each works, or says that it does not."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fusedlm import nn, ops
from tests.support.compare import randn
from tests.support.every_op import CALLS, DIFFERENTIABLE, leaves_of
from tests.support.small import CONFIGS, small_model

# The backward of a rotation is a rotation.
TWICE = {"rope"}


def floats(leaves):
    return {name: t for name, t in leaves.items() if t.is_floating_point()}


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if n not in TWICE])
def test_a_second_derivative_is_refused_for_every_input(name):
    """Not silently zero: a penalty on the gradient of one input must not lose that of another."""
    call = DIFFERENTIABLE[name]
    for wanted in floats(call.leaves(6)):
        leaves = leaves_of(call, 6)
        for other, t in leaves.items():
            if other != wanted:
                t.requires_grad_(False)
        (gradient,) = torch.autograd.grad(
            call.run(**leaves).sum(), leaves[wanted], create_graph=True
        )
        loss = gradient.square().sum() + leaves[wanted].sum()
        with pytest.raises(RuntimeError, match=r"fusedlm::\w+ has no second derivative"):
            loss.backward()


def test_a_second_derivative_through_the_arriving_gradient_is_refused_too():
    x, scale = randn(5, 8, seed=0).requires_grad_(), torch.tensor(2.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        (scale * ops.rms_norm(x, torch.ones(8))).sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="fusedlm::rms_norm has no second derivative"):
        gradient.sum().backward()


def test_create_graph_alone_changes_nothing():
    for call in DIFFERENTIABLE.values():
        leaves, again = leaves_of(call, 6), leaves_of(call, 6)
        names = list(floats(leaves))
        recorded = torch.autograd.grad(
            call.run(**leaves).sum(), [leaves[n] for n in names], create_graph=True
        )
        plain = torch.autograd.grad(call.run(**again).sum(), [again[n] for n in names])
        assert all(torch.equal(a, b) for a, b in zip(recorded, plain, strict=True))


def test_rope_is_differentiable_twice():
    x = randn(1, 3, 2, 4, seed=0).double().float().requires_grad_()
    tables = ops.rope_tables(5, 4)
    (gradient,) = torch.autograd.grad(ops.rope(x, *tables).square().sum(), x, create_graph=True)
    gradient.sum().backward()  # x^2 summed keeps its length: the gradient is 2 x, its sum's 2
    torch.testing.assert_close(x.grad, torch.full_like(x, 2.0))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_func_grad_gives_what_backward_gives_or_says_no(name):
    """Ops of torch.library have autograd but no functorch rules in the torch versions so far."""
    call = DIFFERENTIABLE[name]
    leaves, rest = leaves_of(call, 6), {}
    plain = {k: t.detach() for k, t in leaves.items()}
    names = list(floats(plain))
    rest = {k: t for k, t in plain.items() if k not in names}
    call.run(**leaves).sum().backward()
    transformed = torch.func.grad(lambda given: call.run(**given, **rest).sum())
    try:
        gradients = transformed({k: plain[k] for k in names})
    except RuntimeError as error:
        assert "functorch transforms" in str(error), error
        return
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, leaves[key].grad)


@pytest.mark.parametrize("name", CALLS)
def test_vmap_gives_the_loop_or_says_no(name):
    call = CALLS[name]
    stacked = {k: torch.stack([t, t.flip(0)]) for k, t in call.leaves(5).items()}
    try:
        out = torch.func.vmap(lambda given: call.run(**given))(stacked)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        assert "vmap" in str(error) or "Batching rule" in str(error), error
        return
    for i in range(2):
        torch.testing.assert_close(out[i], call.run(**{k: t[i] for k, t in stacked.items()}))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_says_no(name):
    call = DIFFERENTIABLE[name]
    plain = call.leaves(5)
    names = list(floats(plain))
    rest = {k: t for k, t in plain.items() if k not in names}
    given = {k: plain[k] for k in names}
    with pytest.raises(NotImplementedError, match=r"fusedlm::\w+ has no forward-mode derivative"):
        torch.func.jvp(lambda g: call.run(**g, **rest), (given,), (given,))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_checkpointing_gives_the_same_bits(name, reentrant):
    call = DIFFERENTIABLE[name]
    leaves, again = leaves_of(call, 7), leaves_of(call, 7)
    call.run(**leaves).sum().backward()
    keys = list(again)
    checkpoint(
        lambda *tensors: call.run(**dict(zip(keys, tensors, strict=True))),
        *again.values(),
        use_reentrant=reentrant,
    ).sum().backward()
    for key, leaf in floats(leaves).items():
        assert torch.equal(leaf.grad, again[key].grad), key


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_repeats_the_dropout(reentrant):
    q, results = randn(1, 30, 2, 8, seed=0), []
    for wrap in (False, True):
        leaf = q.clone().requires_grad_()
        torch.manual_seed(5)

        def call(x):
            return ops.attention(x, x, x, dropout_p=0.4)

        out = checkpoint(call, leaf, use_reentrant=reentrant) if wrap else call(leaf)
        out.sum().backward()
        results.append((out.detach(), leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_under_autocast_gradients_come_in_the_dtype_of_the_leaves(name):
    call = DIFFERENTIABLE[name]
    leaves = leaves_of(call, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = call.run(**leaves)
    out.float().sum().backward()
    expected = torch.float32 if "entropy" in name else torch.bfloat16
    assert out.dtype == expected
    again = leaves_of(call, 7)
    exact = call.run(**again)
    exact.sum().backward()
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
    for key, leaf in floats(leaves).items():
        assert leaf.grad.dtype == leaf.dtype
        scale = float(again[key].grad.abs().max())
        torch.testing.assert_close(leaf.grad, again[key].grad, rtol=0.1, atol=0.05 * scale + 1e-3)


@pytest.mark.parametrize("name", CALLS)
def test_the_meta_device_gives_shapes(name):
    call = CALLS[name]
    real = call.run(**call.leaves(7))
    if name in ("rope", "attention"):
        pytest.skip("the call makes tensors of its own")
    fake = call.run(**{k: t.to("meta") for k, t in call.leaves(7).items()})
    assert fake.is_meta and fake.shape == real.shape and fake.dtype == real.dtype


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_on_the_meta_device_gives_shapes_forward_and_backward(name):
    with torch.device("meta"):
        model = type(small_model(name))(CONFIGS[name])
        tokens = torch.zeros(2, 9, dtype=torch.int64)
    assert model(tokens).shape == (2, 9, 61)
    model(tokens, tokens).backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_deterministic_mode_is_the_only_mode(name):
    call, results = DIFFERENTIABLE[name], []
    for wanted in (False, True):
        torch.use_deterministic_algorithms(wanted)
        try:
            leaves = leaves_of(call, 9)
            out = call.run(**leaves)
            out.sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        results.append([out.detach(), *(t.grad for t in floats(leaves).values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


MODULES = {
    "Linear": lambda: nn.Linear(8, 8),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "FeedForward": lambda: nn.FeedForward(8, 16, activation="swiglu"),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_copied_pickled_and_called_functionally(name):
    torch.manual_seed(0)
    module, x = MODULES[name](), randn(3, 8, seed=0)
    expected = module(x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other(x), expected)
    doubled = {k: 2 * p for k, p in module.named_parameters()}
    called = torch.func.functional_call(module, doubled, (x,))
    assert not torch.equal(called, expected)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    assert torch.equal(called, module(x))


def test_a_decoder_is_copied_and_pickled():
    model, tokens = small_model("llama"), torch.arange(9)[None]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(tokens), model(tokens))
