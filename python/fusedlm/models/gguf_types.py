"""The types of tensors in GGUF files: how they lie, and how they become float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GgmlType:
    """`block` values in a row lie in `size` bytes."""

    number: int
    name: str
    block: int
    size: int


# As ggml.h numbers them.
TYPES = {
    number: GgmlType(number, name, block, size)
    for number, name, block, size in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210), (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2),
        (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8), (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36), (41, "Q1_0", 128, 18),
    )
}  # fmt: skip
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def unpack(path: Path, name: str, rows: np.ndarray[Any, Any], kind: GgmlType) -> Tensor:
    """Tensor `name` of the file `path` in float32, from its bytes [..., bytes of a row].

    Quantised types need the package gguf. Raises NotImplementedError where it is not there, or does
    not read the type.
    """
    if kind.name in _PLAIN:
        return torch.from_numpy(rows.copy()).view(_PLAIN[kind.name]).float()
    doing = f"reading tensor {name!r} of type {kind.name}"
    gguf = gguf_package(path, doing)
    try:
        values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(kind.number))
    except (NotImplementedError, ValueError):  # ValueError: the package is older than the type
        raise NotImplementedError(
            f"{path}: {doing}, which the package gguf does not unpack"
        ) from None
    return torch.from_numpy(values)


def gguf_package(path: Path, doing: str) -> Any:
    """The package gguf; `doing` says in an error what needs it: "writing GGUF"."""
    try:
        import gguf
    except ImportError as error:
        raise NotImplementedError(
            f'{path}: {doing} needs the package gguf; install it by pip install "fusedlm[gguf]"'
        ) from error
    return gguf
