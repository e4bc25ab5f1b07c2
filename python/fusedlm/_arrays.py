"""How any array becomes one that the kernels can read: for `fusedlm.numpy`, which says the rules."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from fusedlm._rules import check_rows

FLOAT32, INT64, INT32, BOOL = (np.dtype(t) for t in (np.float32, np.int64, np.int32, np.bool_))


def as_array(op: str, name: str, value: ArrayLike, ndim: int | None) -> np.ndarray:
    if value is None:
        raise ValueError(f"{op}: {name} is missing")
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{op}: {name} is a masked array, expected a plain one")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{op}: {name} is not an array: {error}") from None
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{op}: {name} has shape {list(array.shape)}, expected {ndim} dimensions")
    return array


def dense(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Aligned, row-major and of this very dtype object (unpickled arrays bring equal ones)."""
    array = np.require(array, dtype, ["C", "A"])
    return array if array.dtype is dtype else array.view(dtype)


def real_dtype(op: str, name: str, array: np.ndarray) -> np.dtype:
    if array.dtype.name == "bfloat16":
        return np.dtype(array.dtype.type)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{op}: {name} has dtype {array.dtype}, expected real numbers")
    return FLOAT32


def strided(op: str, name: str, value: ArrayLike, ndim: int | None = None) -> np.ndarray:
    """Numbers whose last dimension is contiguous; the steps of the others are kept."""
    array = as_array(op, name, value, ndim)
    dtype, size = real_dtype(op, name, array), array.itemsize
    keep = array.dtype is dtype and array.flags.aligned and array.ndim > 0
    keep = keep and (array.shape[-1] <= 1 or array.strides[-1] == size)
    if keep and all(step >= 0 and step % size == 0 for step in array.strides):
        return array
    return dense(array, dtype)


def as_rows(op: str, name: str, value: ArrayLike) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape [..., C] of the argument, and the argument as [N, C]."""
    array = strided(op, name, value)
    check_rows(op, name, array)
    return array.shape, array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def parameter(op: str, name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    array = as_array(op, name, value, ndim)
    return dense(array, real_dtype(op, name, array))


def parameter_or_none(op: str, name: str, value: ArrayLike | None, ndim: int) -> np.ndarray | None:
    return None if value is None else parameter(op, name, value, ndim)


def float32(op: str, name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    return dense(parameter(op, name, value, ndim), FLOAT32)


def integers(
    op: str, name: str, value: ArrayLike, dtype: np.dtype = INT64, ndim: int | None = None
) -> np.ndarray:
    array = as_array(op, name, value, ndim)
    if array.size == 0:  # an empty list has dtype float64
        return np.empty(array.shape, dtype)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{op}: {name} has dtype {array.dtype}, expected integers")
    limits = np.iinfo(dtype)
    for extreme in (array.min(), array.max()):
        if not limits.min <= int(extreme) <= limits.max:
            raise ValueError(f"{op}: {name} holds {extreme}, expected values that fit {dtype}")
    return dense(array, dtype)


def booleans(op: str, name: str, value: ArrayLike) -> np.ndarray:
    array = as_array(op, name, value, 2)
    if array.dtype.kind != "b":
        raise ValueError(f"{op}: {name} has dtype {array.dtype}, expected bool")
    return dense(array, BOOL)
