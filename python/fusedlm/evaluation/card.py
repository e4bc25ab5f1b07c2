"""The model card of a trained model: README.md in its folder, in the form of the Hugging Face hub.

It says what the folder's training.json and config.json and the run's run.json say, and that a thing is
not known where they do not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from fusedlm.errors import CorruptFileError
from fusedlm.models.files import read_json, write_text
from fusedlm.models.folder import final_name

CARD = "README.md"
# Said in sections of their own.
_SAID = {"step", "tokens", "best", "best_step", "data", "command", "versions", "cost"}
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
    of the energy from CPU time where it was not measured, and says so. Raises FileNotFoundError for a
    folder without training.json.
    """
    folder = Path(folder)
    training = read_json(folder / "training.json")
    config = read_json(folder / "config.json")
    run = read_json(folder.absolute().parent / "run.json", optional=True)
    if watts_per_core is not None and not watts_per_core > 0:
        raise ValueError(f"model_card: watts_per_core is {watts_per_core}, expected above 0")
    kind = None if config.get("kind") is None else str(config["kind"])
    pipeline = _CLASSIFIERS.get(str(config.get("task"))) or _PIPELINES.get(kind)
    front = {
        "library_name": "fusedlm",
        "license": license,
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
            "Data": _rows(_data(training, run, data_license)),
            "Metrics": _metrics(training),
            "Energy and time": _rows(_cost(training.get("cost") or {}, watts_per_core)),
            "Settings": _rows({k: v for k, v in training.items() if k not in _SAID}),
            "How it was made": _made(training),
        }
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        reason = f"bad or missing entry ({error!r})"
        raise CorruptFileError(folder / "training.json", reason) from error
    body = "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())
    licence = license or "not given"
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# {name or 'model'}\n\nTrained with fusedlm. Licence: {licence}.\n{body}"


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


def _data(training: dict[str, Any], run: dict[str, Any], license: str | None) -> dict[str, Any]:
    data = training.get("data") or {}
    source = run.get("text") or run.get("data")
    if isinstance(source, dict):  # what it is read from and how
        source = source.get("data") or source.get("path")
    named = {"source": os.path.basename(str(source))} if source else {}
    seen = {"tokens trained on": training["tokens"]} if "tokens" in training else {}
    return {**named, **data, **seen, "licence": license or "not given"}


def _metrics(training: dict[str, Any]) -> str:
    best = training.get("best")
    if not isinstance(best, dict):
        return "Not evaluated.\n"
    step = f" (step {training['best_step']:,})" if "best_step" in training else ""
    return f"Of the best evaluation{step} on data that was not trained on.\n\n{_rows(best)}"


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
