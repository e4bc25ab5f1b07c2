"""How good a model is: scores, plots and reports; loaded on first use."""

from __future__ import annotations

import importlib

_HOME = {
    "calibration": "classification",
    "classification_report": "classification",
    "confusion_matrix": "classification",
    "worst_errors": "classification",
    "entity_report": "entities",
    "spans": "entities",
    "plot_calibration": "plots",
    "plot_confusion": "plots",
    "write_report": "report",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"fusedlm.evaluation.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fusedlm.evaluation' has no attribute {name!r}")
