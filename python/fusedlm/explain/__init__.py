"""What a model does with one sentence, in numbers one can look at; loaded on first use.

The fused kernels keep nothing in between: attention weights, for one, are never written down. Here a
model is computed once more in plain torch, which records everything on the way.
"""

from __future__ import annotations

import importlib

_HOME = {
    "Trace": "tracing",
    "trace": "tracing",
    "attention_maps": "maps",
    "LogitLens": "lens",
    "logit_lens": "lens",
    "Attribution": "attribution",
    "integrated_gradients": "attribution",
    "AdamSettings": "learning",
    "explain_step": "learning",
    "lesson_model": "lesson",
    "Question": "sentence",
    "walk": "sentence",
    "Walk": "sentence",
    "View": "text",
    "print_walk": "text",
    "write_page": "page",
    "plot_attention": "plot",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"fusedlm.explain.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fusedlm.explain' has no attribute {name!r}")
