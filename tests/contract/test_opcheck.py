"""torch.library.opcheck for every op there is, forward and backward."""

from __future__ import annotations

import pytest
import torch

import fusedlm.ops
from tests.support.compare import randn

# Tensors among attention's options: what is behind query, key, value and six numbers.
NOTHING = (None,) * (len(torch.ops.fusedlm.attention.default._schema.arguments) - 9)
ATTENTION = (True, 3, 0.5, 0.0, 0.0, 0, *NOTHING)
LOSS = ("sum", -100, 0.1, 0.0, 0.0)


def t(*shape, seed=0):
    return randn(*shape, seed=seed)


def grown(*shape, seed=0):
    return t(*shape, seed=seed).requires_grad_()


def heads():
    return [grown(2, 5, 4, 8, seed=0), grown(2, 5, 2, 8, seed=1), grown(2, 5, 2, 8, seed=2)]


def saved(op, *arguments):
    with torch.no_grad():
        return getattr(torch.ops.fusedlm, op)(*arguments)


def _attention_backward():
    tensors = [x.detach() for x in heads()]
    return t(2, 5, 4, 8, seed=3), *tensors, *saved("attention", *tensors, *ATTENTION), *ATTENTION


def _attention_qkv_backward():
    qkv = t(2, 5, 8, 8)
    out, lse = saved("attention_qkv", qkv, 4, *ATTENTION)
    return t(2, 5, 4, 8, seed=3), qkv, out, lse, 4, *ATTENTION


def _norm_backward(op):
    x, weight, rest = t(5, 8), t(8, seed=1), (None,) * (2 if op == "layer_norm" else 1)
    statistics = saved(op, x, weight, *rest, 1e-5)[2:]
    return t(5, 8, seed=2), x, weight, *statistics, None


def _group_norm_backward():
    x, weight = t(2, 6, 5), t(6, seed=1)
    _, *statistics = saved("group_norm", x, 3, weight, None, 1e-5)
    return t(2, 6, 5, seed=2), x, 3, weight, *statistics


def _ffn_backward():
    x, up, gate, down = t(5, 8), t(12, 8, seed=1), t(12, 8, seed=2), t(8, 12, seed=3)
    options = ("silu", torch.float32)
    _, *kept = saved("ffn", x, up, None, gate, None, down, None, None, *options)
    return (
        t(5, 8, seed=4),
        x,
        up,
        gate,
        down,
        *kept,
        [True, False, True, False, True, False],
        *options,
    )


def _cross_entropy_backward():
    logits, targets = t(6, 9), torch.arange(6)
    _, lse = saved("cross_entropy", logits, targets, None, *LOSS)
    return torch.tensor(2.0), logits, targets, lse, None, *LOSS


TARGETS, TABLES = torch.arange(6), fusedlm.ops.rope_tables(9, 8)
ARGUMENTS = {
    "adamw_step_": lambda: ([t(3)], [t(3, seed=1)], [t(3) * 0], [t(3) * 0], [0.1], [0.0], [1], 0.9,
                            0.99, 1e-8, 1.0),
    "attention": lambda: (*heads(), *ATTENTION),
    "attention_backward": _attention_backward,
    "attention_qkv": lambda: (grown(2, 5, 8, 8), 4, *ATTENTION),
    "attention_qkv_backward": _attention_qkv_backward,
    "cross_entropy": lambda: (grown(6, 9), TARGETS, torch.rand(9), *LOSS),
    "cross_entropy_backward": _cross_entropy_backward,
    "embedding": lambda: (TARGETS, grown(9, 8), torch.arange(6), grown(7, 8, seed=1), 1, torch.float32,
                          False),
    "embedding_backward": lambda: (t(6, 8), TARGETS, 9, -1, torch.float32),
    "ffn": lambda: (grown(5, 8), grown(12, 8, seed=1), grown(12), grown(12, 8, seed=2), None,
                    grown(8, 12, seed=3), grown(8), grown(5, 8, seed=4), "silu", torch.float32),
    "ffn_backward": _ffn_backward,
    "grad_norm": lambda: ([t(3), t(2, 2)],),
    "group_norm": lambda: (grown(2, 6, 5), 3, grown(6, seed=1), grown(6, seed=2), 1e-5),
    "group_norm_backward": _group_norm_backward,
    "layer_norm": lambda: (grown(5, 8), grown(8), grown(8, seed=1), grown(5, 8, seed=2), 1e-5),
    "layer_norm_backward": lambda: _norm_backward("layer_norm"),
    "linear": lambda: (grown(5, 8), grown(7, 8), grown(7), grown(5, 7), "gelu", torch.float32),
    "linear_backward": lambda: (t(5, 7), t(5, 8), t(7, 8), t(5, 7, seed=3), "gelu", True, True, True,
                                torch.float32),
    "linear_cross_entropy": lambda: (grown(6, 8), grown(9, 8), grown(9), TARGETS, torch.rand(9), *LOSS,
                                     True, True, True),
    "linear_cross_entropy_backward": lambda: (t(6), t(6, 8), t(9, 8), None, TARGETS, None, *LOSS[1:],
                                              True, True, False),
    "rms_norm": lambda: (grown(5, 8), grown(8), grown(5, 8, seed=2), 1e-5),
    "rms_norm_backward": lambda: _norm_backward("rms_norm"),
    "rope": lambda: (grown(2, 5, 4, 8), *TABLES, None, 3, False, False),
    "sample": lambda: (t(3, 9), None, None, 1.0, 4, 0.9, 0.0, 1.0, 7, 0),
}  # fmt: skip


def defined() -> set[str]:
    schemas = torch._C._jit_get_all_schemas()
    return {s.name.removeprefix("fusedlm::") for s in schemas if s.name.startswith("fusedlm::")}


def test_every_op_is_checked():
    assert defined() == ARGUMENTS.keys()


@pytest.mark.parametrize("op", ARGUMENTS)
def test_opcheck(op):
    torch.library.opcheck(getattr(torch.ops.fusedlm, op).default, ARGUMENTS[op]())
