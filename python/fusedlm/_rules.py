"""What the torch ops and the NumPy ones look up and refuse alike: tensors and arrays both pass.

Nothing here imports torch, so that `fusedlm.numpy` can use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

LINEAR_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
# Name for the user -> (activation of the kernel, gated).
FFN_ACTIVATIONS = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gelu_tanh": ("gelu_tanh", False),
    "swiglu": ("silu", True),
    "geglu": ("gelu", True),
    "geglu_tanh": ("gelu_tanh", True),
}
REDUCTIONS = ("mean", "sum", "none")


class Array(Protocol):
    """A tensor of torch or an array of NumPy."""

    @property
    def ndim(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def check_rows(op: str, name: str, x: Array) -> None:
    """Refuses a scalar where [..., C] is expected."""
    if x.ndim == 0:
        raise ValueError(f"{op}: {name} has shape [], expected at least 1 dimension")


def linear_activation(activation: str | None) -> str:
    """The kernel's name for the activation of `linear`."""
    if activation is not None and activation not in LINEAR_ACTIVATIONS:
        raise ValueError(
            f"linear: activation is {activation!r}, expected None or one of {LINEAR_ACTIVATIONS}"
        )
    return activation or "none"


def is_gated(activation: str) -> bool:
    """Whether the feed-forward layer with this activation of `FFN_ACTIVATIONS` has a gate."""
    return FFN_ACTIVATIONS[activation][1]


def ffn_activation(activation: str, has_gate: bool) -> str:
    """The kernel's name for the activation of `ffn`."""
    if activation not in FFN_ACTIVATIONS:
        raise ValueError(
            f"ffn: activation is {activation!r}, expected one of {tuple(FFN_ACTIVATIONS)}"
        )
    kernel, gated = FFN_ACTIVATIONS[activation]
    if gated != has_gate:
        need = "needs" if gated else "takes no"
        raise ValueError(f"ffn: activation {activation!r} {need} gate_weight")
    return kernel


def check_attention(query: Array, key: Array, window: int | None, dropout_p: float) -> int:
    """Refuses what the kernel cannot see; returns its window, 0 for none."""
    if query.ndim != 4 or key.ndim != 4:
        raise ValueError(
            f"attention: query has shape {list(query.shape)} and key {list(key.shape)},"
            " expected [B, T, H, D] and [B, S, G, D]"
        )
    if window is not None and window < 1:
        raise ValueError(f"attention: window is {window}, expected at least 1 or None")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"attention: dropout_p is {dropout_p}, expected 0 <= p < 1")
    return 0 if window is None else min(window, 2**62)  # sums with positions stay in 64 bits


def check_mask(mask: Array, query: Array, keys: int) -> tuple[int, int, int, int]:
    """The shape [B, H, T, S] that the mask of `attention` is expanded to; `keys` is S."""
    shape = (query.shape[0], query.shape[2], query.shape[1], keys)
    fits = zip(reversed(mask.shape), reversed(shape), strict=False)
    if mask.ndim > 4 or any(size not in (1, wanted) for size, wanted in fits):
        raise ValueError(
            f"attention: mask has shape {list(mask.shape)}, expected one that broadcasts to"
            f" [B, H, T, S] = {list(shape)}"
        )
    return shape


def check_reduction(op: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction is {reduction!r}, expected mean, sum or none")


def check_cross_entropy(
    x_shape: Sequence[int], targets_shape: Sequence[int], reduction: str
) -> None:
    check_reduction("linear_cross_entropy", reduction)
    if targets_shape != x_shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy: targets has shape {list(targets_shape)}, expected"
            f" {list(x_shape[:-1])} as in x"
        )


def check_group_norm(x: Array) -> None:
    if x.ndim < 2:
        raise ValueError(
            f"group_norm: x has shape {list(x.shape)}, expected at least 2 dimensions, [B, C, ...]"
        )


def check_rope(x: Array, positions: Array | None, heads: int | None) -> int:
    """How many heads turn."""
    if x.ndim != 4:
        raise ValueError(f"rope: x has shape {list(x.shape)}, expected [B, T, H, D]")
    if heads is not None and not 0 < heads <= x.shape[2]:
        raise ValueError(f"rope: heads is {heads}, expected 1 to H = {x.shape[2]}")
    heads = x.shape[2] if heads is None else heads
    if positions is None:
        return heads
    B, T = x.shape[:2]
    rows = positions.shape[0] if positions.ndim == 2 else 1
    if positions.ndim not in (1, 2) or positions.shape[-1] != T or rows not in (1, B):
        raise ValueError(
            f"rope: positions has shape {list(positions.shape)}, expected [T] or [B, T] with"
            f" T = {T} and B = {B}"
        )
    return heads


def sample_options(
    top_k: int | None, top_p: float | None, min_p: float | None, repetition_penalty: float,
    seen: object, step: int,
) -> tuple[int, float, float]:  # fmt: skip
    """(top_k, top_p, min_p) with the kernel's numbers for None."""
    if repetition_penalty != 1 and seen is None:
        raise ValueError("sample: repetition_penalty is given without seen")
    if not 0 <= step < 2**32:
        raise ValueError(f"sample: step is {step}, expected 0 <= step < 2**32")
    return (
        0 if top_k is None else top_k,
        1.0 if top_p is None else float(top_p),
        0.0 if min_p is None else float(min_p),
    )


def rope_tables(
    xp: Any, length: int, dim: int, base: float, scaling: Mapping[str, Any] | None
) -> tuple[Any, Any]:
    """`ops.rope_tables` in float64; xp is the module torch or numpy."""
    if dim < 2 or dim % 2:
        raise ValueError(f"rope_tables: dim is {dim}, expected an even number of at least 2")
    if length < 1:
        raise ValueError(f"rope_tables: length is {length}, expected at least 1")
    rates = base ** -(xp.arange(0, dim, 2, dtype=xp.float64) / dim)
    rates, magnitude = _scaled(xp, rates, base, scaling)
    angles = xp.outer(xp.arange(length, dtype=xp.float64), rates)
    return magnitude * xp.cos(angles), magnitude * xp.sin(angles)


def _scaled(
    xp: Any, rates: Any, base: float, scaling: Mapping[str, Any] | None
) -> tuple[Any, float]:
    """The rates, and what cosine and sine are multiplied by."""
    if scaling is None:
        return rates, 1.0
    kind = scaling.get("rope_type", scaling.get("type"))
    try:
        if kind == "default":
            return rates, 1.0
        if kind == "linear":
            return rates / scaling["factor"], 1.0
        if kind == "llama3":
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            turns = scaling["original_max_position_embeddings"] * rates / (2 * math.pi)
            kept = ((turns - low) / (high - low)).clip(0.0, 1.0)
            return rates * (kept + (1.0 - kept) / scaling["factor"]), 1.0
        if kind == "yarn":
            return rates * _yarn(xp, len(rates), base, scaling), yarn_magnitude(scaling)
    except KeyError as error:
        raise ValueError(f"rope_tables: scaling of rope_type {kind!r} lacks {error}") from None
    raise ValueError(
        f"rope_tables: scaling has rope_type {kind!r}, expected default, linear, llama3 or yarn"
    )


# What transformers' dict of rope_type yarn may say besides, and only so.
YARN_NEUTRAL: dict[str, Any] = {"mscale": None, "mscale_all_dim": None, "truncate": True}


def yarn_beyond_us(scaling: Mapping[str, Any]) -> str | None:
    """What a dict of rope_type yarn asks for that is not computed: the first such key, or None."""
    return next(
        (key for key, same in YARN_NEUTRAL.items() if scaling.get(key) not in (same, None)), None
    )


def _yarn(xp: Any, pairs: int, base: float, scaling: Mapping[str, Any]) -> Any:
    """What each pair's rate is multiplied by: 1 where it turns often, 1 / factor where hardly ever."""
    length = scaling["original_max_position_embeddings"]
    if key := yarn_beyond_us(scaling):
        raise ValueError(
            f"rope_tables: scaling has {key} {scaling[key]!r}, which fusedlm does not compute"
        )

    def pair(turns: float) -> float:  # that turns so often within `length`
        return pairs * math.log(length / (turns * 2 * math.pi)) / math.log(base)

    first = max(math.floor(pair(scaling.get("beta_fast") or 32.0)), 0)
    last = min(math.ceil(pair(scaling.get("beta_slow") or 1.0)), 2 * pairs - 1)
    # As transformers has it where both are one pair.
    width = last - first or 0.001
    stretched = ((xp.arange(pairs, dtype=xp.float64) - first) / width).clip(0.0, 1.0)
    return 1.0 - stretched * (1.0 - 1.0 / scaling["factor"])


def yarn_magnitude(scaling: Mapping[str, Any]) -> float:
    """What YaRN multiplies cosine and sine by, so that scores keep their temperature in a longer text."""
    usual = 0.1 * math.log(max(1.0, scaling["factor"])) + 1.0
    return float(scaling.get("attention_factor") or usual)
