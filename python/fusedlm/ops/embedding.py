"""Token embedding with the learned position added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._support import Context, as_rows, autocast_dtype, core, define, dense, empty


def _forward(
    tokens: Tensor, weight: Tensor, positions: Tensor | None, position_weight: Tensor | None,
    padding_idx: int, dtype: torch.dtype, sparse: bool,
) -> Tensor:  # fmt: skip
    out = empty((*tokens.shape, weight.shape[1]), dtype, weight)
    flat = tokens.reshape(-1).contiguous()
    core.embedding_forward(
        flat,
        weight.contiguous(),
        None if positions is None else positions.reshape(-1).contiguous(),
        dense(position_weight),
        out.view(flat.shape[0], weight.shape[1]),
    )
    return out


def _forward_fake(
    tokens: Tensor, weight: Tensor, positions: Tensor | None, position_weight: Tensor | None,
    padding_idx: int, dtype: torch.dtype, sparse: bool,
) -> Tensor:  # fmt: skip
    return weight.new_empty((*tokens.shape, weight.shape[1]), dtype=dtype)


def _backward(
    dout: Tensor, tokens: Tensor, rows: int, padding_idx: int, dtype: torch.dtype
) -> Tensor:
    dweight = empty((rows, dout.shape[-1]), dtype, dout)
    core.embedding_backward(as_rows(dout), tokens.reshape(-1).contiguous(), dweight, padding_idx)
    return dweight


def _backward_fake(
    dout: Tensor, tokens: Tensor, rows: int, padding_idx: int, dtype: torch.dtype
) -> Tensor:
    return dout.new_empty((rows, dout.shape[-1]), dtype=dtype)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, weight, positions, position_weight, padding_idx, _, sparse = inputs
    ctx.save_for_backward(tokens, positions)
    ctx.weight_rows, ctx.weight_dtype, ctx.padding_idx = weight.shape[0], weight.dtype, padding_idx
    ctx.sparse = sparse
    ctx.position_rows = None if position_weight is None else position_weight.shape[0]


def _autograd(ctx: Context, dout: Tensor) -> tuple[Tensor | None, ...]:
    tokens, positions = ctx.saved_tensors
    dweight = dposition = None
    if ctx.needs_input_grad[1]:
        make = (
            _sparse_gradient
            if ctx.sparse and not dout.is_meta
            else torch.ops.fusedlm.embedding_backward
        )
        dweight = make(dout, tokens, ctx.weight_rows, ctx.padding_idx, ctx.weight_dtype)
    if ctx.position_rows is not None and ctx.needs_input_grad[3]:
        dposition = torch.ops.fusedlm.embedding_backward(
            dout, positions, ctx.position_rows, -1, ctx.weight_dtype
        )
    return None, dweight, None, dposition, None, None, None


def _sparse_gradient(
    dout: Tensor, tokens: Tensor, rows: int, padding_idx: int, dtype: torch.dtype
) -> Tensor:
    used, index = torch.unique(tokens, return_inverse=True)
    values = torch.ops.fusedlm.embedding_backward(dout, index, used.shape[0], -1, dtype)
    # Sorted, so that tokens out of range, at which nobody has looked on a GPU, are at the ends. torch would
    # add their rows wherever that is.
    first, end = torch.searchsorted(used, used.new_tensor([0, rows])).tolist()
    used, values = used[first:end], values[first:end]
    if padding_idx >= 0:
        values[used == padding_idx] = 0
    shape = (rows, dout.shape[-1])
    return torch.sparse_coo_tensor(
        used[None], values, shape, is_coalesced=True, check_invariants=False
    )


define(
    "embedding(Tensor tokens, Tensor weight, Tensor? positions, Tensor? position_weight,"
    " int padding_idx, ScalarType dtype, bool sparse) -> Tensor",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "embedding_backward(Tensor dout, Tensor tokens, SymInt rows, int padding_idx, ScalarType dtype)"
    " -> Tensor",
    _backward,
    _backward_fake,
)


def embedding(
    tokens: Tensor,
    weight: Tensor,
    *,
    position_weight: Tensor | None = None,
    positions: Tensor | None = None,
    padding_idx: int | None = None,
    dtype: torch.dtype | None = None,
    sparse_grad: bool = False,
) -> Tensor:
    """weight[tokens] + position_weight[positions].

    tokens [...] int64; weight [V, C] and position_weight [P, C] float32, bfloat16 or float16; positions
    broadcastable to tokens, by default the index in the last dimension; the gradient of row
    `padding_idx` is 0. With `sparse_grad` the gradient of weight is a sparse tensor, as `ops.tied` wants it.
    Returns [..., C] in `dtype` (default: weight's, or autocast's).
    Raises ValueError naming a token outside [0, V) or a position outside [0, P); on a GPU, where they are not
    looked at, such a row is NaN instead.
    """
    if dtype is None:
        dtype = autocast_dtype(weight) or weight.dtype
    if padding_idx is not None and not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise ValueError(
            f"embedding: padding_idx is {padding_idx}, expected within [-{weight.shape[0]}, {weight.shape[0]})"
        )
    if position_weight is not None:
        if positions is None:
            if not tokens.dim():
                raise ValueError("embedding: tokens has shape [] and no positions")
            positions = torch.arange(tokens.shape[-1], device=tokens.device)
        try:
            positions = positions.expand(tokens.shape)
        except RuntimeError:
            raise ValueError(
                f"embedding: positions has shape {list(positions.shape)}, expected one that"
                f" broadcasts to {list(tokens.shape)} as in tokens"
            ) from None
    elif positions is not None:
        raise ValueError("embedding: positions is given without position_weight")
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    out: Tensor = torch.ops.fusedlm.embedding(
        tokens, weight, positions, position_weight, padding, dtype, sparse_grad
    )
    return out
