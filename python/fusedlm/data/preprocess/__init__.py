"""Cleaning of raw text for training: one streaming pass with a report; loaded on first use."""

from __future__ import annotations

import importlib

_HOME = {
    "preprocess": "pipeline",
    "Settings": "settings",
    "ReadSettings": "inputs",
    "read_rows": "inputs",
    "strip_html": "markup",
    "normalise": "characters",
    "squeeze": "characters",
    "mask": "masking",
    "split_sentences": "sentences",
    "english_words": "words",
    "chinese_words": "words",
    "english_tagger": "tags",
    "chinese_tagger": "tags",
    "load_stop_words": "stop_words",
    "NearDuplicates": "duplicates",
    "Statistics": "statistics",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"fusedlm.data.preprocess.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fusedlm.data.preprocess' has no attribute {name!r}")
