"""fusedlm inside other people's models: `patch`, `unpatch`, `patched`; see docs/patching.md."""

from __future__ import annotations

from .patch import patch, patched, unpatch

__all__ = ["patch", "patched", "unpatch"]
