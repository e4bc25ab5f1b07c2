"""One call of each op of `torch.ops.fusedlm` and of each public function, for the tests of the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedlm import functional, ops
from tests.support.compare import randn


@dataclass(frozen=True)
class PublicCall:
    """`run(length)` calls the function on tensors of so many tokens; leaves get gradients."""

    run: Callable[..., Tensor]
    leaves: Callable[[int], dict[str, Tensor]]
    differentiable: bool = True


C, H, G, D, V, F = 16, 4, 2, 8, 19, 24


def _x(n: int, *shape: int, seed: int = 0) -> Tensor:
    return randn(n, *shape, seed=seed)


def _weights(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: randn(*shape, seed=i + 5) for i, (name, shape) in enumerate(shapes.items())}


def _heads(n: int) -> dict[str, Tensor]:
    return {
        "query": randn(2, n, H, D, seed=0),
        "key": randn(2, n, G, D, seed=1),
        "value": randn(2, n, G, D, seed=2),
    }


def _targets(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0], device=x.device) % V


def _slopes() -> Tensor:
    return torch.tensor([0.5, 0.25, 0.1, 0.05])


CALLS = {
    "embedding": PublicCall(
        lambda weight, tokens: ops.embedding(tokens, weight, padding_idx=1),
        lambda n: {**_weights(weight=(V, C)), "tokens": torch.arange(n) % V},
    ),
    "rms_norm": PublicCall(
        lambda x, weight: ops.rms_norm(x, weight),
        lambda n: {"x": _x(n, C), **_weights(weight=(C,))},
    ),
    "rms_norm with residual": PublicCall(
        lambda x, residual, weight: sum(ops.rms_norm(x, weight, residual=residual)),
        lambda n: {"x": _x(n, C), "residual": _x(n, C, seed=1), **_weights(weight=(C,))},
    ),
    "layer_norm": PublicCall(
        lambda x, weight, bias: ops.layer_norm(x, weight, bias),
        lambda n: {"x": _x(n, C), **_weights(weight=(C,), bias=(C,))},
    ),
    "group_norm": PublicCall(
        lambda x, weight, bias: ops.group_norm(x, 4, weight, bias),
        lambda n: {"x": _x(2, C, n), **_weights(weight=(C,), bias=(C,))},
    ),
    "linear": PublicCall(
        lambda x, weight, bias: ops.linear(x, weight, bias, activation="gelu"),
        lambda n: {"x": _x(n, C), **_weights(weight=(F, C), bias=(F,))},
    ),
    "ffn": PublicCall(
        lambda x, up, gate, down: ops.ffn(x, up, down, gate_weight=gate, activation="swiglu"),
        lambda n: {"x": _x(n, C), **_weights(up=(F, C), gate=(F, C), down=(C, F))},
    ),
    "rope": PublicCall(
        lambda x: ops.rope(x, *ops.rope_tables(64, D)), lambda n: {"x": _x(2, n, H, D)}
    ),
    "attention": PublicCall(
        lambda query, key, value: ops.attention(
            query, key, value, causal=True, window=5, alibi_slopes=_slopes()
        ),
        _heads,
    ),
    "attention_qkv": PublicCall(
        lambda qkv: ops.attention_qkv(qkv, H, causal=True),
        lambda n: {"qkv": _x(2, n, H + 2 * G, D)},
    ),
    "scaled_dot_product_attention": PublicCall(
        lambda query, key, value: ops.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (query, key, value)), is_causal=True, enable_gqa=True
        ),
        _heads,
    ),
    "flash_attn_func": PublicCall(
        lambda query, key, value: functional.flash_attn_func(query, key, value, window_size=(3, 1)),
        _heads,
    ),
    "linear_cross_entropy": PublicCall(
        lambda x, weight: ops.linear_cross_entropy(x, weight, _targets(x), z_loss=0.1),
        lambda n: {"x": _x(n, C), **_weights(weight=(V, C))},
    ),
    "linear_cross_entropy, each row": PublicCall(
        lambda x, weight: ops.linear_cross_entropy(x, weight, _targets(x), reduction="none"),
        lambda n: {"x": _x(n, C), **_weights(weight=(V, C))},
    ),
    "cross_entropy": PublicCall(
        lambda x: ops.cross_entropy(x, _targets(x), label_smoothing=0.1), lambda n: {"x": _x(n, V)}
    ),
    "functional.layer_norm": PublicCall(
        lambda x: functional.layer_norm(x, [C]), lambda n: {"x": _x(n, C)}
    ),
    "functional.rms_norm": PublicCall(
        lambda x: functional.rms_norm(x, [C]), lambda n: {"x": _x(n, C)}
    ),
    "sample": PublicCall(
        lambda logits: ops.sample(logits, seed=3, top_k=5), lambda n: {"logits": _x(n, V)}, False
    ),
    "grad_norm": PublicCall(
        lambda x: ops.grad_norm([x]), lambda n: {"x": _x(n, C)}, False
    ),
}  # fmt: skip
DIFFERENTIABLE = {name: call for name, call in CALLS.items() if call.differentiable}


def leaves_of(call: PublicCall, length: int) -> dict[str, Tensor]:
    """The tensors, those of float with requires_grad."""
    return {
        name: t.requires_grad_() if t.is_floating_point() and call.differentiable else t
        for name, t in call.leaves(length).items()
    }
