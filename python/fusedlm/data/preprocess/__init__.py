"""Cleaning of raw text for training: one streaming pass with a report; loaded on first use."""

from __future__ import annotations

from fusedlm._lazy import lazy

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
__getattr__ = lazy(__name__, _HOME)
