"""The GGUF file format: metadata, and where the tensors are. Every length is checked before it is used.

magic, version, counts | name and value, ... | name, shape, type and offset, ... | aligned data
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fusedlm.errors import CorruptFileError

from .gguf_types import TYPES, GgmlType, unpack

_VERSIONS = (2, 3)
_SCALARS = {  # type -> format of struct
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]  # rows first, as ours
    kind: GgmlType
    start: int
    size: int


class GgufFile:
    """Metadata and tensors of a .gguf file, mapped; a `Source` of weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        self._bytes = _map(path)
        self._at = 0
        if self._take(4) != b"GGUF":
            raise self._corrupt("does not begin with 'GGUF'")
        version, tensors, entries = self._unpack("<IQQ")
        if version not in _VERSIONS:
            raise NotImplementedError(f"{path}: GGUF version {version}, expected 2 or 3")
        # An entry has at least 13 bytes, a tensor 32.
        if entries > len(self._bytes) // 13 or tensors > len(self._bytes) // 32:
            raise self._corrupt(f"cannot hold {entries} entries and {tensors} tensors")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            name = self._string()
            self.metadata[name] = self._value(*self._unpack("<I"))
        self._tensors = dict(self._tensor() for _ in range(tensors))
        self._place_tensors()

    def names(self) -> set[str]:
        return set(self._tensors)

    def shape(self, name: str) -> list[int]:
        return list(self._tensors[name].shape)

    def vocabulary(self) -> int:
        """Rows of the embedding. Where that is missing, which `fill` tells with all other tensors that
        are, of what else has as many."""
        for name in ("token_embd.weight", "output.weight"):
            if name in self._tensors:
                return self.shape(name)[0]
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return max(1, len(tokens)) if isinstance(tokens, list) else 1

    def read(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        data = np.frombuffer(self._bytes, np.uint8, tensor.size, tensor.start)
        rows = data.reshape(*tensor.shape[:-1], -1)
        return unpack(self.path, name, rows, tensor.kind).view(tensor.shape)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._unpack("<" + _SCALARS[kind])[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth > 1:
            raise self._corrupt(f"has a value of type {kind}")
        item, count = self._unpack("<IQ")
        if item in _SCALARS:
            self._check(count, struct.calcsize("<" + _SCALARS[item]))
            return list(self._unpack(f"<{count}{_SCALARS[item]}"))
        self._check(count, 8)  # a string's length, or more than that of an array
        return [self._value(item, depth + 1) for _ in range(count)]

    def _string(self) -> str:
        (length,) = self._unpack("<Q")
        return self._take(length).decode("utf-8", errors="replace")

    def _tensor(self) -> tuple[str, _Tensor]:
        name = self._string()
        (dimensions,) = self._unpack("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._corrupt(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(self._unpack(f"<{dimensions}Q")))
        number, offset = self._unpack("<IQ")
        kind = TYPES.get(number)
        if kind is None:
            raise NotImplementedError(
                f"{self.path}: tensor {name!r} is of type {number}, which is not known"
            )
        if shape[-1] % kind.block or 0 in shape:
            raise self._corrupt(f"tensor {name!r} of type {kind.name} has shape {list(shape)}")
        return name, _Tensor(shape, kind, offset, math.prod(shape) // kind.block * kind.size)

    def _place_tensors(self) -> None:
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
            raise self._corrupt(f"general.alignment is {alignment!r}")
        data = -(-self._at // alignment) * alignment
        for name, t in self._tensors.items():
            start = data + t.start
            if start + t.size > len(self._bytes):
                raise self._corrupt(
                    f"ends at byte {len(self._bytes)}, tensor {name!r} at {start + t.size}"
                )
            self._tensors[name] = _Tensor(t.shape, t.kind, start, t.size)

    def _check(self, count: int, size: int) -> None:
        if count * size > len(self._bytes) - self._at:
            raise self._corrupt(f"is cut: {count} values at byte {self._at} go beyond its end")

    def _take(self, length: int) -> bytes:
        self._check(length, 1)
        self._at += length
        return self._bytes[self._at - length : self._at]

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _corrupt(self, reason: str) -> CorruptFileError:
        return CorruptFileError(self.path, f"not a valid GGUF file ({reason})")


def _map(path: Path) -> mmap.mmap | bytes:
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return b""
