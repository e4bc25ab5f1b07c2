"""torch.compile in one graph for all lengths, and torch.export."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support.compare import randn
from tests.support.every_op import CALLS, DIFFERENTIABLE, leaves_of
from tests.support.small import CONFIGS, small_model


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("name", CALLS)
def test_one_dynamic_graph_serves_all_lengths(name):
    call = CALLS[name]
    compiled = torch.compile(call.run, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (7, 12, 33):
        leaves, again = leaves_of(call, length), leaves_of(call, length)
        out, expected = compiled(**leaves), call.run(**again)
        torch.testing.assert_close(out, expected)
        if call.differentiable:
            out.sum().backward()
            expected.sum().backward()
            for key, leaf in leaves.items():
                torch.testing.assert_close(leaf.grad, again[key].grad, msg=key)
    assert graphs() == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_compiles_to_one_graph_for_all_lengths(name):
    model = small_model(name).train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (5, 9, 17):
        tokens = torch.randint(61, (2, length), generator=torch.Generator().manual_seed(length))
        model.zero_grad()
        loss = compiled(tokens, tokens)
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        expected = model(tokens, tokens)
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients, [p.grad for p in model.parameters()])
    assert graphs() == 1


def test_dropout_compiles_and_draws_anew_at_every_call():
    query = randn(1, 40, 2, 40, seed=0)
    value = torch.ones_like(query).requires_grad_()

    def call(query, value):
        first = ops.attention(query, query, value, dropout_p=0.5)
        return first, ops.attention(query, query, value, dropout_p=0.5)

    compiled = torch.compile(call, fullgraph=True)
    (a, b), (c, _) = compiled(query, value), compiled(query, value)
    assert not torch.equal(a, b) and not torch.equal(a, c)
    # The backward drops what the forward dropped: with ones for values, their sum is that of out.
    a.sum().backward()
    torch.testing.assert_close(value.grad.sum(), a.sum())


@pytest.mark.parametrize("name", CALLS)
def test_each_function_exports_with_a_dynamic_length(name):
    call = CALLS[name]

    class Module(torch.nn.Module):
        def forward(self, tensors):
            return call.run(**tensors)

    tensors = {k: t.detach() for k, t in leaves_of(call, 8).items()}
    other = {k: t.detach() for k, t in leaves_of(call, 13).items()}
    length = torch.export.Dim("length", min=2, max=60)
    shapes = {
        k: {d: length for d in range(t.dim()) if t.shape[d] != other[k].shape[d]} or None
        for k, t in tensors.items()
    }
    program = torch.export.export(Module(), (tensors,), dynamic_shapes=(shapes,))
    for given in (tensors, other):
        torch.testing.assert_close(program.module()(given), call.run(**given))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_exports_and_keeps_its_ops(name):
    model = small_model(name)
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))
    length = torch.export.Dim("length", min=2, max=24)
    program = torch.export.export(model, (tokens,), dynamic_shapes=({1: length},))
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    attention = "attention" if model.config.qk_norm else "attention_qkv"
    assert {f"fusedlm.{attention}.default", "fusedlm.ffn.default"} <= used
    for given in (tokens, tokens[:, :5]):
        torch.testing.assert_close(program.module()(given), model(given))


def losses(x, weight, targets):
    """Three consumers of x and two of the head, at different scales."""
    head = ops.linear_cross_entropy(x, weight, targets, z_loss=0.01)
    scaled = 0.25 * ops.linear_cross_entropy(2 * x, weight, targets, reduction="sum")
    other = (x.square().mean() + weight.square().mean()) * 3
    return (
        head * 2 + scaled + other + ops.cross_entropy(x[:, :19], targets, reduction="none").mean()
    )


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("ignored", ["none", "some", "all but one"])
def test_compiled_losses_with_several_consumers_equal_eager(backend, ignored):
    """What went wrong elsewhere: losses of ignored rows left unwritten, gradients that share memory
    with an input, and gradients changed in place although somebody else still reads them."""
    targets = torch.arange(12) % 19
    if ignored != "none":
        targets[1 if ignored == "all but one" else slice(None, None, 3)] = -100
        targets[2:] = -100 if ignored == "all but one" else targets[2:]
    leaves = [randn(12, 24, seed=0), randn(19, 24, seed=1)]
    results = []
    for function in (losses, torch.compile(losses, fullgraph=True, backend=backend)):
        x, weight = (t.clone().requires_grad_() for t in leaves)
        filler = torch.full((1 << 16,), float("nan"))  # what freed memory may hold
        del filler
        loss = function(x, weight, targets)
        first = torch.autograd.grad(loss, (x, weight), torch.tensor(0.5), retain_graph=True)
        first = [g.clone() for g in first]
        second = torch.autograd.grad(loss, (x, weight), torch.tensor(0.5), retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        (loss * 0.5).backward()
        torch.testing.assert_close((x.grad, weight.grad), tuple(first))
        assert torch.equal(x, leaves[0]) and torch.equal(weight, leaves[1])
        results.append((loss.detach(), *first))
    torch.testing.assert_close(*results)


def test_gradients_changed_in_place_before_a_second_backward_are_noticed():
    """As clipping does. The loss keeps its gradients for a retained graph, and hands them out uncopied."""
    x, weight = randn(6, 8, seed=0).requires_grad_(), randn(9, 8, seed=1).requires_grad_()
    loss = ops.linear_cross_entropy(x, weight, torch.arange(6))
    loss.backward(retain_graph=True)
    with torch.no_grad():
        x.grad.mul_(0.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_inductor_gives_what_eager_gives(name):
    call = DIFFERENTIABLE[name]
    leaves, again = leaves_of(call, 9), leaves_of(call, 9)
    out, expected = torch.compile(call.run, fullgraph=True)(**leaves), call.run(**again)
    (out * out).sum().backward()
    (expected * expected).sum().backward()
    torch.testing.assert_close(out, expected)
    for key, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, again[key].grad, msg=key)
