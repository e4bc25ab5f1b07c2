"""The model card of a trained model: README.md in its folder, in the form of the Hugging Face hub.

It says what the folder's training.json and config.json and the run's run.json ("about") say, and that a
thing is not known where they do not. Tests of a finished model are added by `add_test`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from fusedlm.errors import CorruptFileError
from fusedlm.models.files import read_json, write_json, write_text
from fusedlm.models.folder import final_name

CARD = "README.md"
RUN, ABOUT = "run.json", "about"  # of a training run, in the folder above its models
# Said in sections of their own.
_SAID = {"step", "tokens", "best", "best_step", "data", "command", "versions", "cost", "tests"}
_PIPELINES = {
    None: "text-generation",
    "encoder": "feature-extraction",
    "encoder-decoder": "translation",
}
_CLASSIFIERS = {
    "sequence": "text-classification", "token": "token-classification", "span": "question-answering",
}  # fmt: skip


def write_card(folder: Path, **given: Any) -> Path:
    """Writes the `model_card` of `folder` into it."""
    text = model_card(folder, **given)
    write_text(folder / CARD, text)
    return folder / CARD


def model_card(
    folder: str | os.PathLike[str], *, license: str | None = None, data_license: str | None = None,
    watts_per_core: float | None = None,
) -> str:  # fmt: skip
    """Markdown, with what the hub reads in front.

    license and data_license are what model and data may be used under. watts_per_core makes an estimate
    of the energy from CPU time where it was not measured, and says so. Where one is not given, it is
    what the run remembers. Raises FileNotFoundError for a folder without training.json.
    """
    folder = Path(folder)
    training = read_json(folder / "training.json")
    config = read_json(folder / "config.json")
    about = _about(folder)
    license = license or about.get("license")
    watts_per_core = about.get("watts_per_core") if watts_per_core is None else watts_per_core
    if watts_per_core is not None and not watts_per_core > 0:
        raise ValueError(f"model_card: watts_per_core is {watts_per_core}, expected above 0")
    kind = None if config.get("kind") is None else str(config["kind"])
    pipeline = _CLASSIFIERS.get(str(config.get("task"))) or _PIPELINES.get(kind)
    front = {
        "library_name": "fusedlm",
        "license": license,
        "base_model": about.get("base_model"),
        "pipeline_tag": pipeline,
        "tags": ["fusedlm"],
    }
    front = {name: value for name, value in front.items() if value is not None}
    name = final_name(folder)
    if name in ("best", "last"):
        name = folder.absolute().parent.name
    try:
        sections = {
            "Model": _rows({k: v for k, v in config.items() if k != "format_version"}),
            "Data": _rows(_data(training, about, data_license)),
            "Metrics": _metrics(training),
            "Energy and time": _rows(_cost(training.get("cost") or {}, watts_per_core)),
            "Settings": _rows(_settings(training, about)),
            "How it was made": _made(training),
        }
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        reason = f"bad or missing entry ({error!r})"
        raise CorruptFileError(folder / "training.json", reason) from error
    body = "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())
    licence = license or "not given"
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# {name or 'model'}\n\nTrained with fusedlm. Licence: {licence}.\n{body}"


def add_test(folder: str | os.PathLike[str], on: str, report: dict[str, Any]) -> None:
    """Adds the numbers and texts of a `report` on some data to a model's training.json and card, in place
    of earlier ones on the same; its tables and lists are left to the report. Does nothing to a model that
    is of no training run, whose folder is not ours to write to, or that may not be written to.
    """
    folder = Path(folder)
    file = folder / "training.json"
    if not _about(folder) or not file.is_file() or not os.access(folder, os.W_OK):
        return
    training = read_json(file)
    numbers = {k: v for k, v in report.items() if isinstance(v, (int, float, str))}
    tests = {**(training.get("tests") or {}), on: numbers}
    write_json(file, {**training, "tests": tests})
    write_card(folder)


def remember(folder: str | os.PathLike[str], **given: Any) -> None:
    """Keeps what is given, license say, for all cards of the training run whose model `folder` is."""
    file = Path(folder).absolute().parent / RUN
    run = read_json(file, optional=True)
    if ABOUT in run:
        kept = {name: value for name, value in given.items() if value is not None}
        write_json(file, {**run, ABOUT: {**_about(Path(folder)), **kept}})


def license_of(model: str | os.PathLike[str]) -> str | None:
    """The licence that a folder's README.md or a .gguf file states; None where none is."""
    path = Path(model)
    if path.is_file():
        from fusedlm.models.gguf_file import GgufFile

        found = GgufFile(path).metadata.get("general.license")
    else:
        found = _front(path / CARD).get("license")
    return found if isinstance(found, str) else None


def _front(card: Path) -> dict[str, Any]:
    """The YAML in front of somebody's card; empty where there is none that can be read."""
    try:
        head, begun, rest = card.read_text(encoding="utf-8").partition("---\n")
        found = yaml.safe_load(rest.partition("\n---")[0]) if begun and not head else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _about(folder: Path) -> dict[str, Any]:
    found = read_json(folder.absolute().parent / RUN, optional=True).get(ABOUT)
    return found if isinstance(found, dict) else {}


def _rows(values: dict[str, Any]) -> str:
    if not values:
        return "Not known.\n"
    lines = [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines]) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list):
        text = ", ".join(str(one) for one in value[:20]) + (", ..." if len(value) > 20 else "")
    else:
        text = "none" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _data(training: dict[str, Any], about: dict[str, Any], license: str | None) -> dict[str, Any]:
    named = {"source": about["data"]} if about.get("data") else {}
    seen = {"tokens trained on": training["tokens"]} if "tokens" in training else {}
    license = license or about.get("data_license") or "not given"
    return {**named, **(training.get("data") or {}), **seen, "licence": license}


def _settings(training: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    base = {}
    if about.get("base_model"):
        license = about.get("base_license") or "not known"
        base = {"base model": f"{about['base_model']} (licence: {license})"}
    return {
        **base,
        **(about.get("settings") or {}),
        **{name: value for name, value in training.items() if name not in _SAID},
    }


def _metrics(training: dict[str, Any]) -> str:
    best, tests = training.get("best"), training.get("tests") or {}
    if not isinstance(best, dict):
        text = "Not evaluated.\n"
    else:
        step = f" (step {training['best_step']:,})" if "best_step" in training else ""
        text = f"Of the best evaluation{step} on data that was not trained on.\n\n{_rows(best)}"
    return text + "".join(f"\nOn {name}.\n\n{_rows(found)}" for name, found in tests.items())


def _cost(cost: dict[str, Any], watts_per_core: float | None) -> dict[str, str]:
    if not cost:
        return {"time": "not measured", "energy": "not measured"}
    cpu = cost["cpu_seconds"]
    several = cost.get("processes", 1) > 1
    note = f" (of the first of {cost['processes']} processes)" if several else ""
    if cost.get("joules") is not None:
        energy = (
            f"{_energy(cost['joules'])}, measured (RAPL: the whole processor, memory not included)"
        )
    elif watts_per_core is not None:
        joules = cpu * watts_per_core
        energy = (
            f"{_energy(joules)}, an estimate and not a measurement: {cpu:,.0f} CPU seconds x"
            f" {watts_per_core:g} W a core{note}"
        )
    else:
        energy = "not measured"
    return {
        "time": f"{cost['seconds']:,.1f} s",
        "CPU time": f"{cpu:,.1f} s{note}",
        "energy": energy,
    }


def _energy(joules: float) -> str:
    return f"{joules:,.0f} J ({joules / 3.6e6:.4g} kWh)"


def _made(training: dict[str, Any]) -> str:
    command, versions = training.get("command"), training.get("versions") or {}
    text = f"```\n{command}\n```\n" if command else "The command is not known.\n"
    if "step" in training:
        text += f"\nSteps: {training['step']:,}.\n"
    if versions:
        text += f"\nVersions: {', '.join(f'{k} {v}' for k, v in versions.items())}.\n"
    return text
