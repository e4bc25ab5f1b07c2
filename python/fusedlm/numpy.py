"""The forward ops on NumPy arrays, without torch: any array in, a new array out.

Names, arguments and results are those of `fusedlm.ops`, the same bits on float32. What may come in:

- Where numbers are expected: float32 is taken as it is; other floating and integer dtypes and
  lists are converted to float32, and so is the result. bfloat16 of the package ml_dtypes stays
  bfloat16, where `fusedlm.ops` takes bfloat16.
- Where integers are expected: any integer dtype whose values fit.
- Any layout: Fortran order, steps and negative steps, other byte orders, read-only or unaligned
  memory. A copy is made where the kernels need one; no argument is ever written to.

Booleans in place of numbers, complex, text, objects and masked arrays are refused. All errors of
shape, dtype and value are ValueErrors that name op and argument: "linear: x has dtype complex64,
expected real numbers". An option of the wrong type, such as eps None, is a TypeError.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusedlm import _core as core
from fusedlm import _rules
from fusedlm._arrays import (
    BOOL,
    FLOAT32,
    INT32,
    INT64,
    as_array,
    as_rows,
    booleans,
    dense,
    float32,
    integers,
    parameter,
    parameter_or_none,
    real_dtype,
    strided,
)

__all__ = [
    "attention",
    "embedding",
    "ffn",
    "group_norm",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "rms_norm",
    "rope",
    "rope_tables",
    "sample",
]


def _residual(op: str, value: ArrayLike | None) -> np.ndarray | None:
    return None if value is None else as_rows(op, "residual", value)[1]


def _like(rows: np.ndarray, *shape: int) -> np.ndarray:
    return np.empty(shape, rows.dtype)


def embedding(
    tokens: ArrayLike,
    weight: ArrayLike,
    *,
    position_weight: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    padding_idx: int | None = None,
    dtype: DTypeLike | None = None,
) -> np.ndarray:
    """weight[tokens] + position_weight[positions].

    tokens [...] integers; weight [V, C]; position_weight [P, C]; positions broadcastable to tokens,
    by default the index in the last dimension. padding_idx shapes gradients only and is checked.
    Returns [..., C] in `dtype`: float32 or bfloat16, by default weight's.
    Raises ValueError naming a token outside [0, V) or a position outside [0, P).
    """
    op = "embedding"
    tokens = integers(op, "tokens", tokens)
    weight = parameter(op, "weight", weight, 2)
    V, C = weight.shape
    if padding_idx is not None and not -V <= padding_idx < V:
        raise ValueError(f"{op}: padding_idx is {padding_idx}, expected within [-{V}, {V})")
    made = weight.dtype if dtype is None else np.dtype(np.dtype(dtype).type)
    if made.name not in ("float32", "bfloat16"):
        raise ValueError(f"{op}: dtype is {made}, expected float32 or bfloat16")
    if position_weight is not None:
        position_weight = parameter(op, "position_weight", position_weight, 2)
        positions = _positions(tokens, positions)
    elif positions is not None:
        raise ValueError(f"{op}: positions is given without position_weight")
    out = np.empty((tokens.size, C), made)
    core.embedding_forward(tokens.reshape(-1), weight, positions, position_weight, out)
    return out.reshape(*tokens.shape, C)


def _positions(tokens: np.ndarray, positions: ArrayLike | None) -> np.ndarray:
    if positions is None:
        if tokens.ndim == 0:
            raise ValueError("embedding: tokens has shape [], expected at least 1 dimension")
        positions = np.arange(tokens.shape[-1])
    positions = integers("embedding", "positions", positions)
    try:
        return dense(np.broadcast_to(positions, tokens.shape), INT64).reshape(-1)
    except ValueError:
        raise ValueError(
            f"embedding: positions has shape {list(positions.shape)}, expected one that broadcasts"
            f" to {list(tokens.shape)} as in tokens"
        ) from None


def group_norm(
    x: ArrayLike,
    groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> np.ndarray:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over each group of C / groups channels.

    x [B, C, ...]; weight, bias [C] (arXiv:1803.08494). Returns y like x, dense.
    Raises ValueError naming the argument whose shape or dtype does not fit.
    """
    op = "group_norm"
    x = as_array(op, "x", x, None)
    _rules.check_group_norm(x)
    planes = dense(x, real_dtype(op, "x", x)).reshape(*x.shape[:2], math.prod(x.shape[2:]))
    weight = parameter_or_none(op, "weight", weight, 1)
    bias = parameter_or_none(op, "bias", bias, 1)
    y = _like(planes, *planes.shape)
    mean, rstd = (np.empty((len(x), max(groups, 0)), FLOAT32) for _ in range(2))
    core.group_norm_forward(planes, weight, bias, y, mean, rstd, groups, float(eps))
    return y.reshape(x.shape)


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension (arXiv:1607.06450).

    x [..., C]; weight, bias [C]; residual like x. With `residual` returns (y, sum), where
    sum = x + residual and the norm is taken of sum; otherwise y.
    Raises ValueError naming the argument whose shape or dtype does not fit.
    """
    op = "layer_norm"
    shape, rows = as_rows(op, "x", x)
    weight = parameter(op, "weight", weight, 1)
    bias = parameter_or_none(op, "bias", bias, 1)
    residual = _residual(op, residual)
    y, total = _like(rows, *rows.shape), None if residual is None else _like(rows, *rows.shape)
    mean, rstd = (np.empty(len(rows), FLOAT32) for _ in range(2))
    core.layer_norm_forward(rows, residual, weight, bias, y, total, mean, rstd, float(eps))
    return y.reshape(shape) if total is None else (y.reshape(shape), total.reshape(shape))


def rms_norm(
    x: ArrayLike, weight: ArrayLike, eps: float = 1e-6, *, residual: ArrayLike | None = None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv:1910.07467).

    x [..., C]; weight [C]; residual like x. With `residual` returns (y, sum), where
    sum = x + residual and the norm is taken of sum; otherwise y.
    Raises ValueError naming the argument whose shape or dtype does not fit.
    """
    op = "rms_norm"
    shape, rows = as_rows(op, "x", x)
    weight = parameter(op, "weight", weight, 1)
    residual = _residual(op, residual)
    y, total = _like(rows, *rows.shape), None if residual is None else _like(rows, *rows.shape)
    rstd = np.empty(len(rows), FLOAT32)
    core.rms_norm_forward(rows, residual, weight, y, total, rstd, float(eps))
    return y.reshape(shape) if total is None else (y.reshape(shape), total.reshape(shape))


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> np.ndarray:
    """activation(x weight^T + bias) + residual.

    x [..., K]; weight [O, K]; bias [O]; residual [..., O]; activation None, "relu", "gelu" (erf),
    "gelu_tanh" (arXiv:1606.08415) or "silu". Returns [..., O].
    Raises ValueError naming the argument that does not fit.
    """
    op, kernel = "linear", _rules.linear_activation(activation)
    shape, rows = as_rows(op, "x", x)
    weight = parameter(op, "weight", weight, 2)
    bias = parameter_or_none(op, "bias", bias, 1)
    y = _like(rows, len(rows), len(weight))
    core.linear_forward(rows, weight, bias, _residual(op, residual), y, None, kernel)
    return y.reshape(*shape[:-1], len(weight))


def ffn(
    x: ArrayLike,
    up_weight: ArrayLike,
    down_weight: ArrayLike,
    *,
    gate_weight: ArrayLike | None = None,
    up_bias: ArrayLike | None = None,
    gate_bias: ArrayLike | None = None,
    down_bias: ArrayLike | None = None,
    activation: str = "gelu",
    residual: ArrayLike | None = None,
) -> np.ndarray:
    """Feed-forward block: activation(x up_weight^T + up_bias) down_weight^T + down_bias + residual.

    x, residual [..., C]; up_weight, gate_weight [F, C]; down_weight [C, F]; up_bias, gate_bias [F];
    down_bias [C]; activation "relu", "gelu" (erf), "gelu_tanh", or with gate_weight "swiglu",
    "geglu" or "geglu_tanh" (arXiv:2002.05202). Returns [..., C].
    Raises ValueError naming the argument that does not fit.
    """
    op, kernel = "ffn", _rules.ffn_activation(activation, gate_weight is not None)
    shape, rows = as_rows(op, "x", x)
    up_weight = parameter(op, "up_weight", up_weight, 2)
    down_weight = parameter(op, "down_weight", down_weight, 2)
    gate_weight = parameter_or_none(op, "gate_weight", gate_weight, 2)
    up = _like(rows, len(rows), len(up_weight))
    gate = None if gate_weight is None else np.empty_like(up)
    y = _like(rows, *rows.shape)
    core.ffn_forward(
        rows,
        up_weight,
        parameter_or_none(op, "up_bias", up_bias, 1),
        gate_weight,
        parameter_or_none(op, "gate_bias", gate_bias, 1),
        down_weight,
        parameter_or_none(op, "down_bias", down_bias, 1),
        _residual(op, residual),
        up,
        gate,
        y,
        kernel,
    )
    return y.reshape(shape)


def rope_tables(
    length: int, dim: int, base: float = 10000.0, *, scaling: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [length, dim / 2] float32 of the angles position * base^(-2i / dim).

    `scaling` is Hugging Face's rope_scaling, of rope_type "default", "linear", "llama3" or "yarn" as in
    `fusedlm.ops.rope_tables`. Raises ValueError naming what does not fit.
    """
    cos, sin = _rules.rope_tables(np, length, dim, base, scaling)
    return cos.astype(FLOAT32), sin.astype(FLOAT32)


def rope(
    x: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    heads: int | None = None,
    interleaved: bool = False,
) -> np.ndarray:
    """Turns the first R elements of each (or the first `heads`) head by its token's angles.

    Su et al. 2021 (arXiv:2104.09864).
    x [B, T, H, D]; cos, sin [P, R / 2] as from `rope_tables`. positions [T] or [B, T] integers
    choose the rows, by default 0 to T - 1. Pairs are (i, i + R / 2), or (2i, 2i + 1) if
    `interleaved`. Returns [B, T, H, D]. Raises ValueError naming the argument that does not fit.
    """
    op = "rope"
    x = strided(op, "x", x)
    cos, sin = float32(op, "cos", cos, 2), float32(op, "sin", sin, 2)
    positions = None if positions is None else integers(op, "positions", positions)
    heads = _rules.check_rope(x, positions, heads)
    if positions is not None:
        positions = np.broadcast_to(positions, x.shape[:2])
    y = _like(x, *x.shape)
    y[:, :, heads:] = x[:, :, heads:]
    core.rope(x[:, :, :heads], cos, sin, positions, y[:, :, :heads], bool(interleaved), False)
    return y


def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    mask: ArrayLike | None = None,
    key_padding_mask: ArrayLike | None = None,
    alibi_slopes: ArrayLike | None = None,
    softcap: float = 0.0,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: ArrayLike | None = None,
    cu_seqlens_k: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    return_lse: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """softmax(scale * query key^T + bias) value (arXiv:2307.08691), as `fusedlm.ops.attention`.

    query [B, T, H, D]; key, value [B, S, G, D], where G divides H. causal, window, scale (D^-0.5),
    softcap and dropout_p are numbers; seed None draws one from NumPy's global generator. mask
    broadcasts to [B, H, T, S]: boolean (True keeps) or floating (added); key_padding_mask [B, S]
    boolean; alibi_slopes [H]; cu_seqlens_q, cu_seqlens_k [n + 1] and kv_lengths [B] integers.

    Returns out [B, T, H, D]; with return_lse also the log-sum-exp of the scores [B, H, T] float32.
    Raises ValueError naming the argument that does not fit.
    """
    op = "attention"
    query, key = strided(op, "query", query), strided(op, "key", key)
    window = _rules.check_attention(query, key, window, dropout_p)
    value = strided(op, "value", value, 4)
    if dropout_p and seed is None:
        seed = int(np.random.randint(2**62, dtype=np.int64))
    if cu_seqlens_q is not None and cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens_q
    B, T, H, D = query.shape
    out, lse = _like(query, B, T, H, D), np.empty((B, H, T), FLOAT32)
    if cu_seqlens_q is not None:  # tokens of no sequence
        out[...], lse[...] = 0, np.inf
    arrays = [
        None if mask is None else _mask(mask, query, key),
        None if key_padding_mask is None else booleans(op, "key_padding_mask", key_padding_mask),
        None if alibi_slopes is None else float32(op, "alibi_slopes", alibi_slopes, 1),
    ]
    lengths = {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k, "kv_lengths": kv_lengths}
    for name, given in lengths.items():
        arrays.append(None if given is None else integers(op, name, given, INT32, 1))
    arrays.append(None)  # keys in pages are for caches, which are torch's
    options = core.AttentionOptions(  # points into `arrays`, which outlive the call
        bool(causal),
        operator.index(window),
        (D**-0.5 if D else 1.0) if scale is None else float(scale),
        float(softcap),
        float(dropout_p),
        operator.index(seed or 0) % 2**64,
        *arrays,
    )
    core.attention_forward(query, key, value, out, lse, options)
    return (out, lse) if return_lse else out


def _mask(mask: ArrayLike, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    mask = as_array("attention", "mask", mask, None)
    if mask.dtype.kind in "iu":  # 1 may mean kept, or added
        raise ValueError(f"attention: mask has dtype {mask.dtype}, expected bool or floating")
    is_bool = mask.dtype.kind == "b"
    mask = dense(mask, BOOL if is_bool else real_dtype("attention", "mask", mask))
    return np.broadcast_to(mask, _rules.check_mask(mask, query, key.shape[1]))


def linear_cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    class_weight: ArrayLike | None = None,
) -> np.ndarray:
    """cross_entropy(x weight^T + bias, targets) with only a chunk of the logits in memory at a time.

    x [..., C]; weight [V, C]; bias [V]; targets [...] integers; class_weight [V]. Options as in
    `fusedlm.ops.linear_cross_entropy`: reduction "mean", "sum" or "none", label smoothing
    (arXiv:1512.00567), z-loss (arXiv:2204.02311), softcap. Returns the loss, float32: shape [], or
    [...] with reduction "none".
    Raises ValueError naming the argument that does not fit, or the target out of range.
    """
    op = "linear_cross_entropy"
    shape, rows = as_rows(op, "x", x)
    targets = integers(op, "targets", targets)
    _rules.check_cross_entropy(shape, targets.shape, reduction)
    ignored = integers(op, "ignore_index", ignore_index, ndim=0)
    weight = parameter(op, "weight", weight, 2)
    bias = parameter_or_none(op, "bias", bias, 1)
    if class_weight is not None:
        class_weight = float32(op, "class_weight", class_weight, 1)
    loss = np.empty(len(rows) if reduction == "none" else 1, FLOAT32)
    core.linear_cross_entropy(
        rows,
        weight,
        bias,
        targets.reshape(-1),
        class_weight,
        None,  # no gradients: neither what arrives nor what leaves
        loss,
        *(None,) * 3,
        reduction,
        int(ignored),
        float(label_smoothing),
        float(z_loss),
        float(softcap),
    )
    return loss.reshape(targets.shape if reduction == "none" else ())


def sample(
    logits: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seen: ArrayLike | None = None,
    seed: int | None = None,
    step: int = 0,
    rows: ArrayLike | None = None,
    return_log_prob: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Draws one token a row from logits [B, V], as `fusedlm.ops.sample` does.

    temperature (0: greedy), top_k, top_p, min_p and repetition_penalty are numbers; seen [B, S]
    integers, -1 where there is none; rows [B] integers. seed None draws one from NumPy's global
    generator. Returns tokens [B] int64; with return_log_prob also their log-probabilities [B].
    Raises ValueError naming the argument that does not fit.
    """
    op = "sample"
    logits = strided(op, "logits", logits, 2)
    options = _rules.sample_options(top_k, top_p, min_p, repetition_penalty, seen, step)
    if seed is None:
        seed = int(np.random.randint(2**62, dtype=np.int64))
    tokens, log_probs = np.empty(len(logits), INT64), np.empty(len(logits), FLOAT32)
    core.sample(
        logits,
        None if seen is None else integers(op, "seen", seen, ndim=2),
        None if rows is None else integers(op, "rows", rows, ndim=1),
        tokens,
        log_probs,
        float(temperature),
        *options,
        float(repetition_penalty),
        operator.index(seed) % 2**64,
        operator.index(step),
    )
    return (tokens, log_probs) if return_log_prob else tokens
