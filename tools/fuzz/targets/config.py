"""config.json of every kind of model, ours and Hugging Face's, read in Python and by the engine."""

from __future__ import annotations

from pathlib import Path

import typer

from fusedlm import _core
from fusedlm.cli.options import _parse
from fusedlm.models import load

from ..case import Case, Target
from ..mutate import damage_bytes, damage_json, mostly
from .models import Files, foreign_folders, own_folders

CONFIG = "config.json"
_JSON = mostly(damage_json, damage_bytes, 0.9)


def _python(path: Path) -> None:
    load(path.parent, weights=False)


def _engine(path: Path) -> None:
    """What is loaded is used, too: a config that is taken must be one that a step can be made with."""
    model = _core.Model.load(str(path.parent))
    generator = _core.Generator(
        _core.Engine(model, dtype="float32", cache_tokens=8), most_running=1
    )
    generator.submit([1], max_new_tokens=1)
    generator.step()


def _options(path: Path) -> None:
    try:
        _parse(path)
    except typer.BadParameter as error:  # which typer turns into a line of its own
        raise ValueError(str(error)) from error


def _cases() -> list[Case]:
    def case(name: str, files: Files, read) -> Case:
        beside = {other: data for other, data in files.items() if other != CONFIG}
        return Case(name, CONFIG, files[CONFIG], _JSON, read, beside)

    own, foreign = own_folders(), foreign_folders()
    decoders = ("gpt2", "llama", "qwen2", "qwen3", "mistral")
    return [
        *(case(f"own-{name}", files, _python) for name, files in own.items()),
        *(case(f"foreign-{name}", files, _python) for name, files in foreign.items()),
        *(case(f"engine-own-{name}", own[name], _engine) for name in ("gpt2", "llama")),
        *(case(f"engine-{name}", foreign[name], _engine) for name in decoders),
        Case("options-yaml", "options.yaml", b"steps: 10\nlr: 1e-3\ntexts: [a, b]\nname: \"x\"\n",
             damage_bytes, _options),
        Case("options-toml", "options.toml", b'steps = 10\nlr = 1e-3\ntexts = ["a", "b"]\n', damage_bytes,
             _options),
    ]  # fmt: skip


TARGET = Target("config", _cases)
