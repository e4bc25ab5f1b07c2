"""A pickle runs what is in it when it is read: no file of a user's ever is, whatever it is called."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fusedlm.data import (
    PackedData,
    load_corpus,
    read_conversations,
    read_labelled,
    read_parallel,
    read_questions,
    read_tagged,
)
from fusedlm.data.json_lines import read_objects
from fusedlm.data.preprocess.inputs import ReadSettings, read_rows
from fusedlm.errors import CorruptFileError
from fusedlm.generate import LanguageModel
from fusedlm.models import add_lora, load, load_lora, save_lora
from fusedlm.train import read_metrics
from fusedlm.train.checkpoint import load_checkpoint
from tests.support.child import ROOT
from tests.support.ranks import CONFIG, TOKENIZER, TRAIN, VALIDATION
from tests.support.ranks import model as trained_model
from tests.support.tiny import save_tiny_model


class Malicious:
    """What unpickles it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def _torch(value: object) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": value}, file)
    return file.getvalue()


def _numpy(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([value], dtype=object), allow_pickle=True)
    return file.getvalue()


PICKLES: dict[str, Callable[[object], bytes]] = {
    "pickle": lambda value: pickle.dumps(value, protocol=4),
    "torch.save": _torch,
    "npy of objects": _numpy,
}
EXECUTED = {
    "pickle": pickle.loads,
    "torch.save": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "npy of objects": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
}


@pytest.fixture(params=PICKLES)
def evil(request, tmp_path):
    """Bytes that must be refused, and were not unpickled when the test ends."""
    mark = tmp_path / "executed"
    yield PICKLES[request.param](Malicious(mark))
    assert not mark.exists()


@pytest.mark.parametrize("kind", PICKLES)
def test_these_pickles_would_be_noticed(tmp_path, kind):
    EXECUTED[kind](PICKLES[kind](Malicious(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def refused(name: str, call: Callable[[], object]) -> None:
    with pytest.raises((CorruptFileError, ValueError, OSError, NotImplementedError)) as caught:
        call()
    assert name in str(caught.value), caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize("read", [load, LanguageModel.load], ids=["models", "engine"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_in_a_model_folder(folder, tmp_path, evil, read, name):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / name).write_bytes(evil)
    refused(name, lambda: read(tmp_path / "m"))


@pytest.mark.parametrize("read", [load, LanguageModel.load], ids=["models", "engine"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_in_place_of_safetensors(folder, tmp_path, evil, read, name):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / name).write_bytes(evil)
    with pytest.raises(NotImplementedError, match=rf"{name}: weights are pickled, .*safetensors"):
        read(tmp_path / "m")


@pytest.mark.parametrize("read", [load, LanguageModel.load], ids=["models", "engine"])
def test_as_a_shard(folder, tmp_path, evil, read):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "pytorch_model-1-of-1.bin").write_bytes(evil)
    index = {"weight_map": {"embedding.weight": "pytorch_model-1-of-1.bin"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("pytorch_model-1-of-1.bin", lambda: read(tmp_path / "m"))


@pytest.mark.parametrize("read", [load, LanguageModel.load], ids=["models", "engine"])
@pytest.mark.parametrize("name", ["model.gguf", "model.pt", "model.pkl"])
def test_as_a_file_with_a_model(tmp_path, evil, read, name):
    pytest.importorskip("gguf")
    (tmp_path / name).write_bytes(evil)
    refused(name, lambda: read(tmp_path / name))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from fusedlm.train import train

    out = tmp_path_factory.mktemp("run") / "r"
    train(trained_model(), TOKENIZER, TRAIN, VALIDATION, CONFIG, out, progress=False)
    return out


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json", "model.safetensors"])
def test_in_a_checkpoint(checkpoint, tmp_path, evil, name):
    shutil.copytree(checkpoint, tmp_path / "r")
    (tmp_path / "r/last" / name).write_bytes(evil)
    refused(name, lambda: load_checkpoint(tmp_path / "r/last"))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_in_an_adapter(folder, tmp_path, evil, name):
    model, _ = load(folder)
    save_lora(add_lora(model, rank=2), tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(evil)
    refused(name, lambda: load_lora(load(folder)[0], tmp_path / "a"))


def test_in_place_of_an_adapter(folder, tmp_path, evil):
    model, _ = load(folder)
    save_lora(add_lora(model, rank=2), tmp_path / "a")
    (tmp_path / "a/adapter_model.safetensors").unlink()
    (tmp_path / "a/adapter_model.bin").write_bytes(evil)
    with pytest.raises(NotImplementedError, match=r"adapter_model\.bin: weights are pickled"):
        load_lora(load(folder)[0], tmp_path / "a")


READERS: dict[str, Callable[[Path], object]] = {
    "text.txt": load_corpus,
    "data.pkl": load_corpus,
    "array.npy": load_corpus,
    "tokens.bin": PackedData,
    "labelled.csv": read_labelled,
    "labelled.jsonl": read_labelled,
    "labelled.pkl": read_labelled,
    "words.conll": read_tagged,
    "squad.json": read_questions,
    "squad.jsonl": read_questions,
    "pairs.tsv": lambda path: read_parallel([path]),
    "pairs.jsonl": lambda path: read_parallel([path]),
    "pairs.mo": lambda path: read_parallel([path]),
    "pairs.npy": lambda path: read_parallel([path]),
    "chats.jsonl": read_conversations,
    "chats.json": read_conversations,
    "chats.yml": read_conversations,
    "rows.jsonl": lambda path: list(read_objects(path)),
    "metrics.jsonl": lambda path: read_metrics(path),
}


@pytest.mark.parametrize("name", READERS)
def test_as_data(tmp_path, evil, name):
    (tmp_path / name).write_bytes(evil)
    refused(name, lambda: READERS[name](tmp_path / name))


@pytest.mark.parametrize(
    "name", ["a.txt", "a.jsonl", "a.csv", "a.parquet", "a.pkl", "a.npy", "a.gz"]
)
def test_as_rows_to_clean(tmp_path, evil, name):
    """Here bad rows are counted, and a file of an unknown kind is text: not executed is all there is."""
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(evil)
    try:
        for row in read_rows([tmp_path / name], ReadSettings()):
            assert name in row.file
    except (CorruptFileError, ValueError) as error:
        assert name in str(error)


@pytest.mark.parametrize("name", ["chats.yml", "options.yaml"])
def test_yaml_makes_no_objects(tmp_path, name):
    import typer

    from fusedlm.cli.options import _parse

    mark = tmp_path / "executed"
    text = f'conversations: !!python/object/apply:os.mkdir ["{mark}"]\n'
    (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, typer.BadParameter), match=name):
        (read_conversations if name == "chats.yml" else _parse)(tmp_path / name)
    assert not mark.exists()


# Modules that unpickle, or do so in some of their functions.
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_no_module_of_ours_can_unpickle():
    files = [
        f
        for name in ("python", "tools", "benchmarks", "examples")
        for f in (ROOT / name).rglob("*.py")
    ]
    assert len(files) > 200
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if _unpickles(node):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def _unpickles(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] in UNPICKLERS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in UNPICKLERS
    if not isinstance(node, ast.Call):
        return False
    options = {k.arg: k.value for k in node.keywords}
    name, home = _called(node.func)
    if home == "torch" and name == "load":
        only = options.get("weights_only")
        return not (isinstance(only, ast.Constant) and only.value is True)
    if home in ("np", "numpy") and name == "load":
        allow = options.get("allow_pickle")
        return allow is not None and not (isinstance(allow, ast.Constant) and allow.value is False)
    return name == "read_pickle" or (home == "yaml" and name in ("unsafe_load", "full_load"))


def _called(function: ast.AST) -> tuple[str, str]:
    """(name, what it is an attribute of): ("load", "torch")."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.attr, function.value.id
    return (function.id if isinstance(function, ast.Name) else ""), ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import pickle", True), ("from joblib import load", True), ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True), ("torch.load(f, weights_only=True)", False),
        ("np.load(f)", False), ("np.load(f, allow_pickle=True)", True), ("json.loads(f)", False),
        ("pandas.read_pickle(f)", True), ("yaml.unsafe_load(f)", True), ("import json", False),
    ],
)  # fmt: skip
def test_what_unpickles_is_known(code, expected):
    assert any(_unpickles(node) for node in ast.walk(ast.parse(code))) == expected
