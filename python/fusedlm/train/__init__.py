"""Training: settings, schedule, loop, checkpoints, metrics and plots; loaded on first use."""

from __future__ import annotations

import importlib

_HOME = {
    "Classification": "classification",
    "LanguageModelling": "language_modelling",
    "Task": "task",
    "Sequences": "length_batches",
    "TokenClassification": "token_classification",
    "TrainConfig": "config",
    "TrainResult": "loop",
    "evaluate": "evaluation",
    "fit": "loop",
    "fit_probe": "linear_probe",
    "learning_rate": "schedule",
    "load_checkpoint": "checkpoint",
    "plot_curve": "plot",
    "read_metrics": "metrics",
    "train": "language_modelling",
    "Translation": "translation",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"fusedlm.train.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fusedlm.train' has no attribute {name!r}")
