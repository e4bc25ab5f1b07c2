"""A decoder whose blocks are spread over several ranks: tensor parallelism (Shoeybi et al. 2019,
arXiv:1909.08053).

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    model = tensor_parallel(Decoder(config), mesh)     # every rank has the same model at first

Of each block, a rank of R computes 1 / R of the heads and of the feed-forward width. qkv, up and gate
are cut by rows, so that what comes out are whole heads and columns of the hidden layer; out and down
are cut by columns, so that what comes out are terms of a sum. Two sums over the ranks a block and
direction are all that is sent:

    x -> copy -> [ qkv -> attention -> out ] -> sum -> + bias          backward: sum at copy, copy at sum
    x -> copy -> [ up, gate -> activation -> down ] -> sum -> + bias

The cut parameters are DTensors, which `fusedlm.optim.AdamW` takes; the ops compute on their local parts.
Embedding, norms and head (the embedding again, where tied) are on all ranks, with equal gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from fusedlm._sharded import cut, local, whole
from fusedlm.nn import FeedForward, SelfAttention

from .decoder import Decoder
from .lora import has_lora


def tensor_parallel(model: Decoder, mesh: DeviceMesh) -> Decoder:
    """Spreads the blocks of `model` over the ranks of `mesh`, of one dimension, in place.

    All ranks call it, with equal weights; from then on they compute the same tokens together, each
    with equal logits, loss and gradients of what is not cut. state_dict() has the rows of qkv as in a
    model that is not cut, in whole tensors, so all ranks have to call it. Raises ValueError where heads,
    kv_heads or ffn_width cannot be divided, or with dropout or adapters.
    """
    count, config = mesh.size(), model.config
    if mesh.ndim != 1:
        raise ValueError(f"tensor_parallel: mesh has {mesh.ndim} dimensions, expected 1")
    for name in ("heads", "kv_heads", "ffn_width"):
        if getattr(config, name) % count:
            raise ValueError(
                f"tensor_parallel: the model has {name} {getattr(config, name)}, expected a multiple of"
                f" the {count} ranks"
            )
    if config.dropout:
        raise ValueError(f"tensor_parallel: the model has dropout {config.dropout}, expected 0")
    if has_lora(model):
        raise ValueError("tensor_parallel: the model has adapters; merge them first")
    parallelize_module(
        model, mesh, {"blocks.*.attention": _Attention(), "blocks.*.ffn": _FeedForward()}
    )
    return model


class _Attention(ParallelStyle):
    """A rank has heads / R query heads with the kv_heads / R that they share."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, SelfAttention)  # as the plan says
        blocks = [h * module.head_width for h in (module.heads, *[module.kv_heads] * 2)]
        module.heads //= mesh.size()
        module.kv_heads //= mesh.size()
        _cut(module.qkv, mesh, {"weight": Shard(0), "bias": Shard(0)}, blocks)
        _cut(module.out, mesh, {"weight": Shard(1)})
        _compute_on_parts(module.out, {"bias": lambda _: None})
        for norm in filter(None, (module.query_norm, module.key_norm)):
            # Of heads that differ from rank to rank.
            _compute_on_parts(norm, {"weight": lambda weight: _copy(weight, mesh)})
        _copy_then_sum(module, mesh, lambda: module.out.bias)
        return module


class _FeedForward(ParallelStyle):
    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, FeedForward)
        columns = ("up_weight", "gate_weight", "up_bias", "gate_bias")
        _cut(module, mesh, {**dict.fromkeys(columns, Shard(0)), "down_weight": Shard(1)})
        _compute_on_parts(module, {"down_bias": lambda _: None})
        _copy_then_sum(module, mesh, lambda: module._parameters.get("down_bias"))
        return module


def _copy(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """x on every rank; its gradient is the sum of theirs."""
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(
        grad_placements=[Partial()]
    )


def _sum(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum over ranks, on every rank; the gradient goes to each."""
    return (
        DTensor.from_local(x, mesh, [Partial()], run_check=False)
        .redistribute(placements=[Replicate()])
        .to_local()
    )


def _copy_then_sum(module: nn.Module, mesh: DeviceMesh, bias: Callable[[], Tensor | None]) -> None:
    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_copy(args[0], mesh), *args[1:])

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        output, term = _sum(output, mesh), bias()
        return output if term is None else output + term.to(output.dtype)  # once, not R times

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _cut(
    module: nn.Module, mesh: DeviceMesh, cuts: dict[str, Shard], blocks: list[int] | None = None
) -> None:
    """Makes parameters DTensors of which the module's forward sees the local parts.

    With `blocks`, the parameters are blocks of so many rows one below the other, each of which is cut.
    """
    cuts = {
        name: placement for name, placement in cuts.items() if getattr(module, name) is not None
    }
    for name, placement in cuts.items():
        parameter = getattr(module, name)
        full = parameter.detach()
        if blocks is not None:
            full = _dealt(full, blocks, mesh.size())
        part = cut(full, mesh, [placement])
        setattr(module, name, nn.Parameter(part, requires_grad=parameter.requires_grad))
    _compute_on_parts(module, dict.fromkeys(cuts, local))
    if blocks is not None:

        def undeal(
            _module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any
        ) -> None:
            for name in cuts:
                state[prefix + name] = _gathered(whole(state[prefix + name]), blocks, mesh.size())

        module.register_state_dict_post_hook(undeal)


def _compute_on_parts(
    module: nn.Module, seen: dict[str, Callable[[Tensor], Tensor | None]]
) -> None:
    """While the module computes, its parameter `name` is what seen[name] makes of it."""

    def before(module: nn.Module, _args: tuple[Any, ...]) -> None:
        # An entry of __dict__ is found before the parameter, which stays what optimizers and files see.
        for name, make in seen.items():
            if (parameter := module._parameters.get(name)) is not None:
                module.__dict__[name] = make(parameter)

    def after(module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        for name in seen:
            if name in module._parameters:
                module.__dict__.pop(name, None)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


def _dealt(rows: Tensor, blocks: list[int], count: int) -> Tensor:
    """The rows of `blocks` in the order of the ranks that get them: a part of each block a rank."""
    parts = [block.chunk(count) for block in rows.split(blocks)]
    return torch.cat([part[rank] for rank in range(count) for part in parts])


def _gathered(rows: Tensor, blocks: list[int], count: int) -> Tensor:
    """`_dealt` undone."""
    parts = [rank.split([size // count for size in blocks]) for rank in rows.chunk(count)]
    return torch.cat([part[number] for number in range(len(blocks)) for part in parts])
