"""run.json in a training run's folder: it says what it is made of, so that --resume can go on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from .options import given

RUN = "run.json"
Made = TypeVar("Made")


def must_be_free(out: Path, command: str) -> None:
    """Raises FileExistsError where `out` holds a run, or the best model of one, that would be lost."""
    if any((out / name).exists() for name in ("last", "best")):
        raise FileExistsError(
            f"{out} holds a training run already; go on with it by `fusedlm {command} --resume"
            f" --out {out}`, or choose another --out"
        )


def check_resumed(context: typer.Context, free: set[str]) -> None:
    """Raises ValueError for an option beside --resume that is none of the `free` ones, which may change."""
    if fixed := sorted(given(context) - free):
        raise ValueError(
            f"--{fixed[0].replace('_', '-')} cannot be given with --resume: a run goes on with the"
            " settings it began with"
        )


def remember(out: Path, values: dict[str, Any], about: dict[str, Any]) -> None:
    """Makes the folder and writes its run.json: what the run is made of, and what its cards say of it."""
    from fusedlm.evaluation.card import ABOUT
    from fusedlm.models.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN, {**values, ABOUT: about})


def recall(out: Path, command: str, make: Callable[[dict[str, Any]], Made]) -> Made:
    """What `make` makes of the run.json in `out`.

    Raises FileNotFoundError where nothing can be resumed, and CorruptFileError where `make` misses an
    entry or gets one that it does not know.
    """
    from fusedlm.errors import CorruptFileError
    from fusedlm.evaluation.card import ABOUT
    from fusedlm.models.files import read_json

    if not (out / "last").exists():
        raise FileNotFoundError(f"{out} holds no training run to resume")
    try:
        values = read_json(out / RUN)
        return make({name: value for name, value in values.items() if name != ABOUT})
    except (KeyError, TypeError) as error:
        raise CorruptFileError(
            out / RUN, f"not what `fusedlm {command}` writes: bad or missing entry ({error})"
        ) from error
