"""What a model does with one sentence, in numbers one can look at; loaded on first use.

The fused kernels keep nothing in between: attention weights, for one, are never written down. Here a
model is computed once more in plain torch, which records everything on the way.
"""

from __future__ import annotations

from fusedlm._lazy import lazy

_HOME = {
    "Trace": "record",
    "trace": "tracing",
    "attention_maps": "maps",
    "LogitLens": "lens",
    "logit_lens": "lens",
    "Attribution": "attribution",
    "integrated_gradients": "attribution",
    "AdamSettings": "learning",
    "explain_step": "learning",
    "lesson_model": "lesson",
    "Question": "question",
    "walk": "sentence",
    "Walk": "sentence",
    "View": "text",
    "print_walk": "text",
    "write_page": "page",
    "plot_attention": "plot",
}
__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
