"""model.safetensors, whole and in shards, adapters, read by the engine and in Python."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

from fusedlm import _core
from fusedlm.models import add_lora, load, load_lora, save_lora
from fusedlm.models.weights import INDEX, WEIGHTS

from ..case import Case, Target
from ..mutate import damage_bytes, damage_json, damage_safetensors, mostly
from .models import Files, foreign_folders, own_folders, read_folder, small_decoder


def _case(name: str, file: str, files: Files, read, damage=damage_safetensors) -> Case:
    beside = {other: data for other, data in files.items() if other != file}
    return Case(name, file, files[file], damage, read, beside)


def engine(path: Path) -> None:
    _core.Model.load(str(path.parent))


def python(path: Path) -> None:
    load(path.parent)


def _adapter(path: Path) -> None:
    load_lora(small_decoder(), path.parent)


def _adapters() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        save_lora(add_lora(small_decoder(), rank=2), Path(folder) / "adapter")
        return read_folder(Path(folder) / "adapter")


def _names(weights: bytes) -> list[str]:
    (length,) = struct.unpack_from("<Q", weights)
    return [name for name in json.loads(weights[8 : 8 + length]) if name != "__metadata__"]


def _cases() -> list[Case]:
    own, foreign, adapters = own_folders(), foreign_folders(), _adapters()
    llama = foreign["llama"]
    shards = {name: data for name, data in llama.items() if name != WEIGHTS}
    shards["model-1.safetensors"] = llama[WEIGHTS]
    shards[INDEX] = json.dumps(
        {"metadata": {}, "weight_map": dict.fromkeys(_names(llama[WEIGHTS]), "model-1.safetensors")}
    ).encode()
    damage = mostly(damage_json, damage_bytes)
    return [
        _case("engine-own", WEIGHTS, own["llama"], engine),
        _case("engine-foreign", WEIGHTS, llama, engine),
        _case("python-own", WEIGHTS, own["gpt2"], python),
        _case("python-foreign", WEIGHTS, foreign["qwen2"], python),
        _case("encoder", WEIGHTS, foreign["roberta"], python),
        _case("python-index", INDEX, shards, python, damage),
        _case("engine-index", INDEX, shards, engine, damage),
        _case("adapter", "adapter_model.safetensors", adapters, _adapter),
    ]


TARGET = Target("safetensors", _cases)
