"""Tokens of a whole corpus in one file, read through a memory map.

The file is a header of 32 bytes (magic, version, bytes a token, vocabulary size, number of tokens)
and the tokens, little-endian uint16 or uint32.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from fusedlm.errors import CorruptFileError

from .large_file import large_file
from .tokenizer import Tokenizer

_MAGIC = b"FLMTOKEN"
_HEADER = struct.Struct("<8sIIQQ")
_VERSION = 1


def _dtype_for(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def _checked(who: str, ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{who}: ids have the shape {list(array.shape)}, expected one dimension")
    if not array.size:  # NumPy calls an empty list one of float64
        return array
    if array.dtype.kind not in "iu":
        raise ValueError(f"{who}: ids are {array.dtype}, expected integers")
    least, most = int(array.min()), int(array.max())
    if least < 0 or most >= vocab_size:
        bad = least if least < 0 else most
        raise ValueError(f"{who}: ids holds {bad}, expected 0 to {vocab_size - 1}")
    return array


class PackedWriter:
    """Writes tokens piece by piece; the file appears, complete, when the `with` block ends.

    with PackedWriter(path, vocab_size) as writer:
        writer.add([3, 1, 4])
    """

    def __init__(self, path: str | os.PathLike[str], vocab_size: int) -> None:
        self.path = Path(path)
        self.vocab_size = vocab_size
        self.count = 0
        self._dtype = _dtype_for(vocab_size)

    def __enter__(self) -> PackedWriter:
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(large_file(self.path))
            self._file = stack.enter_context(open(partial, "wb"))
            self._file.write(bytes(_HEADER.size))
            self._ends = stack.pop_all()
        return self

    def add(self, ids: Sequence[int] | np.ndarray) -> None:
        """Appends tokens. Raises ValueError for what is no row of integers of the vocabulary."""
        array = _checked("PackedWriter", ids, self.vocab_size)
        self._file.write(array.astype(self._dtype).tobytes())
        self.count += array.size

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if kind is not None:
            self._ends.__exit__(kind, raised, trace)
            return
        with self._ends:
            header = (_MAGIC, _VERSION, self._dtype.itemsize, self.vocab_size, self.count)
            self._file.seek(0)
            self._file.write(_HEADER.pack(*header))


class PackedData:
    """Tokens as an array that stays on disk, `PackedData(path)`, or in memory, `.of(ids, vocab)`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        size = file.stat().st_size
        with open(file, "rb") as handle:
            head = handle.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:8] != _MAGIC:
            raise CorruptFileError(file, "not a file of packed tokens")
        _, version, width, vocab_size, count = _HEADER.unpack(head)
        if version != _VERSION:
            raise CorruptFileError(file, f"version {version}, this fusedlm reads {_VERSION}")
        if width not in (2, 4) or size != _HEADER.size + width * count:
            raise CorruptFileError(
                file, f"{size} bytes, expected {_HEADER.size} + {width} x {count}: cut short?"
            )
        self.vocab_size: int = vocab_size
        self.ids: np.ndarray = (
            np.memmap(file, np.dtype(f"<u{width}"), "r", _HEADER.size, (count,))
            if count
            else np.empty(0, np.uint16)
        )

    @classmethod
    def of(cls, ids: Sequence[int] | np.ndarray, vocab_size: int) -> PackedData:
        """Tokens in memory. Raises ValueError for what is no row of integers of the vocabulary."""
        self = cls.__new__(cls)
        array = _checked("PackedData", ids, vocab_size)
        self.vocab_size = vocab_size
        self.ids = array.astype(_dtype_for(vocab_size), copy=False)
        return self

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, validation: float) -> tuple[PackedData, PackedData]:
        """The first part for training and the last share `validation` of it for validation."""
        if not 0.0 < validation < 1.0:
            raise ValueError(f"PackedData: validation is {validation}, expected between 0 and 1")
        at = len(self) - max(1, int(len(self) * validation))
        return self._part(self.ids[:at]), self._part(self.ids[at:])

    def _part(self, ids: np.ndarray) -> PackedData:
        part = PackedData.__new__(PackedData)
        part.vocab_size, part.ids = self.vocab_size, ids
        return part

    def fingerprint(self) -> str:
        """A hash of the tokens (of samples, where there are many), to know the data again."""
        pieces, size = 64, 2**18
        digest = hashlib.sha256(f"{self.vocab_size} {len(self)}".encode())
        if len(self) <= pieces * size:
            digest.update(np.ascontiguousarray(self.ids).data)
        else:
            for start in np.linspace(0, len(self) - size, pieces, dtype=np.int64):
                digest.update(np.ascontiguousarray(self.ids[start : start + size]).data)
        return digest.hexdigest()[:32]


def pack_text(text: str, tokenizer: Tokenizer) -> PackedData:
    """The tokens of a text, in memory. Encodes line by line groups, so that long texts are fast."""
    lines = text.splitlines(keepends=True)
    groups = ["".join(lines[i : i + 256]) for i in range(0, len(lines), 256)]
    ids = [np.asarray(part, dtype=np.int64) for part in tokenizer.encode_batch(groups)]
    return PackedData.of(
        np.concatenate(ids) if ids else np.empty(0, np.int64), tokenizer.vocab_size
    )
