"""Stands in for ops that the compiled core does not have yet; goes away with the last of them."""

from __future__ import annotations

import sys
import types

from tests.support import reference

NAMES = (
    "embedding", "rms_norm", "layer_norm", "linear", "ffn", "rope", "rope_tables", "attention",
    "linear_cross_entropy",
)  # fmt: skip


def substitute() -> list[str]:
    try:
        from fusedlm import ops
    except ImportError:
        import fusedlm

        ops = sys.modules["fusedlm.ops"] = fusedlm.ops = types.ModuleType("fusedlm.ops")
    missing = [name for name in NAMES if not hasattr(ops, name) or isinstance(getattr(ops, name), types.ModuleType)]
    for name in missing:
        setattr(ops, name, getattr(reference, name))
    return missing
