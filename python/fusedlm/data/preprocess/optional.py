"""Packages that only some steps need."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(module: str, what: str, extra: str = "preprocess") -> ModuleType:
    """Imports a package of an extra; ValueError that says how to get it where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} needs the package {error.name}: pip install 'fusedlm[{extra}]'"
        ) from error
