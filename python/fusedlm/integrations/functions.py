"""torch functions that a model calls itself, without a layer of torch around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fusedlm import ops


class FusedFunctions(TorchFunctionMode):
    """Within it F.scaled_dot_product_attention is `ops.attention` wherever that can do the same."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return function(*args, **kwargs)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if not _fits(query, key, value, attn_mask, is_causal, enable_gqa):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    out = ops.attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask=attn_mask,
        causal=is_causal, dropout_p=dropout_p, scale=scale,
    )  # fmt: skip
    return out.transpose(1, 2)


def _fits(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, grouped: bool
) -> bool:
    dtypes = {query.dtype, key.dtype, value.dtype}
    return (
        query.dim() == key.dim() == value.dim() == 4
        and len(dtypes) == 1
        and query.dtype in (torch.float32, torch.bfloat16)
        and query.shape[0] == key.shape[0] == value.shape[0]
        and key.shape == value.shape
        and query.shape[3] == key.shape[3]
        and (grouped or query.shape[1] == key.shape[1])
        # torch stands the first query on the first key, the kernels the last on the last.
        and (not causal or (query.shape[2] == key.shape[2] and mask is None))
        and not (mask is not None and mask.requires_grad)
    )
