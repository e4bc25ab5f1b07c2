"""Weights in files: safetensors, whole or in shards, and how they become the parameters of a model."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fusedlm._sharded import is_sharded, rank, whole
from fusedlm.errors import CorruptFileError

from .files import must_exist, read_json
from .names import Names

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Source(Protocol):
    """Named tensors in files; `path` is what an error names."""

    path: Path

    def names(self) -> set[str]: ...
    def shape(self, name: str) -> list[int]: ...
    def read(self, name: str) -> Tensor:
        """A copy in float32."""
        ...


class Safetensors:
    """model.safetensors of a folder, or the shards that model.safetensors.index.json lists."""

    def __init__(self, folder: Path) -> None:
        index = folder / INDEX
        if (folder / WEIGHTS).is_file() or not index.is_file():
            refuse_pickles(folder)
            self.path = folder / WEIGHTS
            shards = [self.path]
        else:
            self.path = index
            shards = [folder / name for name in _shards(index)]
        self._files: dict[Path, Any] = {}
        self._at: dict[str, Path] = {}
        for shard in shards:
            self._files[shard] = _open(shard)
            self._at.update(dict.fromkeys(self._files[shard].keys(), shard))

    def names(self) -> set[str]:
        return set(self._at)

    def shape(self, name: str) -> list[int]:
        return list(self._files[self._at[name]].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        file = self._at[name]
        try:
            value: Tensor = self._files[file].get_tensor(name)
        except (SafetensorError, ValueError) as error:
            raise CorruptFileError(file, f"tensor {name!r} cannot be read ({error})") from error
        if not value.is_floating_point():
            raise CorruptFileError(
                file, f"tensor {name!r} has dtype {value.dtype}, expected float32, 16 or bfloat16"
            )
        return value.to(torch.float32, copy=True)


class Tensors:
    """A safetensors file, read tensor by tensor."""

    def __init__(self, file: Path) -> None:
        self._path, self._file = file, _open(file)
        self._names = set(self._file.keys())

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """A copy. Raises `CorruptFileError` where it is missing or has another shape."""
        if name not in self._names or tuple(self._file.get_slice(name).get_shape()) != tuple(shape):
            raise CorruptFileError(self._path, f"{name} is missing or misshapen")
        value: Tensor = self._file.get_tensor(name)
        return value.clone()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as they are in it."""
    tensors: dict[str, Tensor] = _reading(file, load_file)
    return tensors


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, one tensor after the other.

    Of tensors whose parts are on several ranks no rank ever holds more than one whole: all ranks call
    this, with the same names, and rank 0 writes. (save_file of safetensors wants all of them at once.)
    """
    # The order of safetensors itself: the widest first, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    if rank() != 0 and any(map(is_sharded, tensors.values())):
        for name in names:
            whole(tensors[name])
        return
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            value = whole(tensors[name]).cpu().contiguous().reshape(-1)
            out.write(value.view(torch.uint8).numpy().data)


def _open(file: Path) -> Any:
    return _reading(file, partial(safe_open, framework="pt"))


def _reading(file: Path, read: Callable[[Path], Any]) -> Any:
    must_exist(file)
    with open(file, "rb"):  # of a file that may not be opened safetensors says that there is none
        pass
    try:
        return read(file)
    except (SafetensorError, ValueError) as error:
        raise CorruptFileError(file, f"not a valid safetensors file ({error})") from error


def _shards(index: Path) -> list[str]:
    shards = read_json(index).get("weight_map")
    names: list[Any] = list(shards.values()) if isinstance(shards, dict) else [None]
    # A name is of a file beside the index and nowhere else.
    if not all(isinstance(n, str) and n and Path(n).name == n for n in names):
        raise CorruptFileError(index, "weight_map is not an object of file names")
    return sorted(set(names))


def refuse_pickles(folder: Path, wanted: str = WEIGHTS) -> None:
    """Raises NotImplementedError naming a pickle that is there in place of the file `wanted`."""
    pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(
        p.name for p in folder.glob("*.pt*")
    )
    if pickles and not (folder / wanted).is_file():
        raise NotImplementedError(
            f"{folder / pickles[0]}: weights are pickled, and reading a pickle runs what is in it;"
            f" convert them, in transformers by model.save_pretrained(folder), which writes {wanted}"
        )


def fill(model: nn.Module, source: Source, names: Names | None = None) -> None:
    """Gives the parameters of `model`, which may be on the meta device, the weights of `source`.

    `names` None: they have our names. Raises `CorruptFileError` for tensors that are missing (all at
    once), misshapen, not finite or of no parameter.
    """
    expected = model.state_dict()
    in_file = _by_name(source, names)
    theirs = {ours: (ours,) if names is None else names.of(ours) for ours in expected}
    _find_missing(source, in_file, [name for found in theirs.values() for name in found])
    used = {name for found in theirs.values() for name in found}
    for name in sorted(in_file.keys() - used):
        if names is None or not (names.may_be_there(name) or _is_tied_head(model, name, names)):
            raise CorruptFileError(source.path, f"tensor {name!r} does not belong to this config")
    weights = {}
    for ours, found in theirs.items():
        turned = names is not None and names.is_transposed(ours, expected[ours])
        wanted = list(expected[ours].shape)
        parts = []
        for name, shape in zip(found, _parts(model, wanted, len(found)), strict=True):
            value = _read(source, in_file[name], shape[::-1] if turned else shape)
            parts.append(value.T.contiguous() if turned else value)
        weights[ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
    model.load_state_dict(weights, assign=True)


def _by_name(source: Source, names: Names | None) -> dict[str, str]:
    """Name as `Names.of` gives it -> name in the file."""
    if names is None:
        return {name: name for name in source.names()}
    return {names.without_prefix(name): name for name in source.names()}


def _find_missing(source: Source, in_file: dict[str, str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in in_file]
    if not missing:
        return
    named = ", ".join(map(repr, missing))
    tensors_are = "tensor {} is" if len(missing) == 1 else "tensors {} are"
    raise CorruptFileError(source.path, f"{tensors_are.format(named)} missing")


def _is_tied_head(model: nn.Module, name: str, names: Names) -> bool:
    tied = getattr(model, "head", 0) is None  # some files hold the embedding a second time
    return tied and name == names.of("head.weight")[0]


def _parts(model: nn.Module, shape: list[int], count: int) -> list[list[int]]:
    """The shapes of `count` tensors that are one of `shape`: itself, or query, key and value."""
    if count == 1:
        return [shape]
    config: Any = model.config
    heads = (config.heads, config.kv_heads, config.kv_heads)
    return [[h * config.head_width, *shape[1:]] for h in heads]


def _read(source: Source, name: str, wanted: list[int]) -> Tensor:
    shape = source.shape(name)
    if shape != wanted:
        raise CorruptFileError(source.path, f"tensor {name!r} has shape {shape}, expected {wanted}")
    value = source.read(name)
    if not math.isfinite(float(value.sum())) and not bool(torch.isfinite(value).all()):
        raise CorruptFileError(source.path, f"tensor {name!r} has values that are not finite")
    return value


def renamed(model: nn.Module, weights: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    """`weights` of `model`, by our names, as a file of another project has them: `fill` reversed."""
    result = {}
    for ours, value in weights.items():
        found = names.full(ours)
        if names.is_transposed(ours, value):
            value = value.T
        rows = [shape[0] for shape in _parts(model, list(value.shape), len(found))]
        parts = value.split(rows) if len(found) > 1 else (value,)
        result.update({n: p.contiguous() for n, p in zip(found, parts, strict=True)})
    return result
