"""`attn_implementation="fusedlm"` for Hugging Face models: flash attention and the masks it wants.

    import fusedlm.integrations.attention          # registers the name
    model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="fusedlm")

A mask travels from `masks` to `attend` through the model as one tensor, told apart by its dimensions:

    None          nothing but what the layer itself says (causal, sliding window)
    [n + 1]       cu_seqlens of sequences packed into the rows of the batch, one row after another
    [B, S]        True where a key counts
    [B, 1, T, S]  everything, the layer's causality and window included

The first three cost nothing; the last is for patterns that the kernels do not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    prepare_padding_mask,
    sdpa_mask,
)

from fusedlm import ops
from fusedlm.ops.attention import WIDEST_ON_GPU, AttentionOptions, takes_width

from .plain import FLOATS

NAME = "fusedlm"
# Of transformers: (batch, head, query, key) -> whether the key counts.
MaskFunction: TypeAlias = Callable[..., Any]


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None,
    sliding_window: int | None = None, softcap: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The attention function of transformers' interface: query [B, H, T, D], key and value [B, G, S, D];
    returns out [B, T, H, D] and no weights. What the kernels lack goes to torch's attention, or raises
    NotImplementedError where that lacks it, too.
    """
    if not _fits(query, value, attention_mask, kwargs):
        if attention_mask is not None and attention_mask.dim() != 4:
            raise NotImplementedError(
                "attention: this layer needs torch's attention (a learned position bias, attention"
                f" sinks, values of another width, {query.dtype}, or on a GPU heads wider than"
                f" {WIDEST_ON_GPU}; here D={query.shape[-1]}), which takes no packed or padded rows from"
                " attn_implementation='fusedlm'; load the model with attn_implementation='sdpa'"
            )
        if kwargs.get("s_aux") is not None or softcap is not None:
            raise NotImplementedError(
                "attention: this layer has attention sinks, or a softcap that the kernels cannot"
                " apply to it; load the model with attn_implementation='eager'"
            )
        if sliding_window is not None and attention_mask is None:
            raise NotImplementedError(
                "attention: this layer needs torch's attention, which takes its sliding window as a"
                " mask alone; load the model with attn_implementation='sdpa'"
            )
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            is_causal=is_causal, **kwargs,
        )  # fmt: skip
    out = attend_heads(
        module, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attention_mask,
        dropout=dropout, scaling=scaling, is_causal=is_causal, window=sliding_window,
        softcap=softcap, position_bias=kwargs.get("position_bias"),
    )  # fmt: skip
    return out, None


def attend_heads(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *,
    dropout: float, scaling: float | None, is_causal: bool | None = None,
    window: int | None = None, softcap: float | None = None, position_bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention for query [B, T, H, D], key and value [B, S, G, D], with a mask as told above."""
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    options: AttentionOptions = {
        "scale": scaling, "dropout_p": dropout, "softcap": softcap or 0.0,
        "causal": bool(is_causal), "window": window,
    }  # fmt: skip
    if mask is not None and mask.dim() == 1:
        shape = query.shape
        query, key, value = (t.reshape(1, -1, *t.shape[2:]) for t in (query, key, value))
        options["cu_seqlens_q"] = mask
        return ops.attention(query, key, value, **options).view(shape)
    if mask is not None and mask.dim() == 2:
        options["key_padding_mask"] = mask
    elif mask is not None:
        options.update({"mask": mask, "causal": False, "window": None})
    if position_bias is not None:
        options["mask"] = _with_bias(position_bias, options.get("mask"))
    return ops.attention(query, key, value, **options)


def _with_bias(bias: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return bias
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _fits(query: Tensor, value: Tensor, mask: Tensor | None, extra: dict[str, Any]) -> bool:
    learned = extra.get("position_bias")
    return (
        query.shape[-1] == value.shape[-1]
        and query.dtype in (*FLOATS, torch.float16)
        and takes_width(query, query.shape[-1])
        and extra.get("s_aux") is None
        and not (mask is not None and mask.requires_grad)
        and not (learned is not None and learned.requires_grad and torch.is_grad_enabled())
    )


def masks(
    batch_size: int, q_length: int, kv_length: int, q_offset: int | Tensor = 0,
    kv_offset: int = 0, mask_function: MaskFunction = causal_mask_function,
    attention_mask: Tensor | None = None, **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    """The mask function of transformers' interface: the smallest tensor that says what `attend` needs."""
    pattern, positions = _pattern(mask_function)
    # The kernels stand the last query on the last key; a cache with room behind it does not.
    aligned = isinstance(q_offset, int) and q_offset + q_length == kv_offset + kv_length
    if pattern is None or (pattern == "causal" and not aligned):
        return _written_out(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            kwargs,
        )  # fmt: skip
    if positions is not None:
        return cu_seqlens_of(positions.expand(batch_size, -1))
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is None:
        return None
    padding = padding[:, kv_offset : kv_offset + kv_length]
    if not _traced(padding) and bool(padding.all()):
        return None
    return padding


def _written_out(
    batch: int, q_length: int, kv_length: int, q_offset: int | Tensor, kv_offset: int,
    mask_function: MaskFunction, attention_mask: Tensor | None, kwargs: dict[str, Any],
) -> Tensor | None:  # fmt: skip
    kwargs = {
        **kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False,
        "q_offset": q_offset,  # a tensor, where the annotation there says int alone, is taken too
    }  # fmt: skip
    return sdpa_mask(
        batch, q_length, kv_length, kv_offset=kv_offset, mask_function=mask_function,
        attention_mask=attention_mask, **kwargs,
    )  # fmt: skip


def _pattern(function: MaskFunction) -> tuple[str | None, Tensor | None]:
    """("causal" or "both" or None for what is not known, position ids of packed sequences or None).

    A sliding window is part of "causal": layers that slide pass it to their attention themselves.
    """
    if function is causal_mask_function:
        return "causal", None
    if function is bidirectional_mask_function:
        return "both", None
    made_by = function.__qualname__.split(".", 1)[0]
    held = _captured(function)
    if made_by == "remap_positions_for_packed_sequence":
        inner, _ = _pattern(held["mask_function"])
        return ("causal", held["position_ids"]) if inner == "causal" else (None, None)
    if made_by == "and_masks":
        parts = held["mask_functions"]
        makers = {part.__qualname__.split(".", 1)[0] for part in parts}
        if makers == {"sliding_window_overlay", "causal_mask_function"}:
            return "causal", None
    return None, None


def _captured(function: MaskFunction) -> dict[str, Any]:
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def _traced(tensor: Tensor) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # neither exported nor typed
        or type(tensor) is not Tensor
    )


def cu_seqlens_of(positions: Tensor) -> Tensor:
    """Where sequences begin in rows of positions [B, T] that start again for each: [n + 1] int32."""
    starts = torch.ones_like(positions, dtype=torch.bool)
    starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    begins = starts.reshape(-1).nonzero().squeeze(1)
    end = torch.tensor([positions.numel()], device=positions.device)
    return torch.cat((begins, end)).to(torch.int32)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, masks)
