"""fusedlm: fused kernels to train and run transformer language models."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlm.integrations.patch import patch, patched, unpatch

try:
    __version__ = version("fusedlm")
except PackageNotFoundError:  # run from a source tree
    __version__ = "0+unknown"

# Loaded on first use, so that `import fusedlm` stays fast and works without torch.
_SUBMODULES = {
    "ops",
    "nn",
    "models",
    "data",
    "evaluation",
    "train",
    "generate",
    "optim",
    "explain",
    "errors",
    "functional",
    "cli",
    "numpy",
    "cpp",
    "integrations",
}
_FUNCTIONS = {"patch", "unpatch", "patched"}
__all__ = ["available_isas", "cuda_compiled", "isa", "patch", "patched", "set_isa", "unpatch"]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fusedlm.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("fusedlm.integrations"), name)
    raise AttributeError(f"module 'fusedlm' has no attribute {name!r}")


def isa() -> str:
    """The instruction set in use: scalar, avx2, avx512, avx512_bf16, neon, or simt for the emulator."""
    from fusedlm import _core

    return _core.isa()


def set_isa(name: str) -> None:
    """Chooses another instruction set, for tests. Raises NotImplementedError where it is missing."""
    from fusedlm import _core

    _core.set_isa(name)


def available_isas() -> list[str]:
    """Instruction sets that this machine can run, the slowest first; last the emulator, if built in."""
    from fusedlm import _core

    return _core.available_isas()


def cuda_compiled() -> bool:
    """Whether this build has the CUDA kernels."""
    from fusedlm import _core

    return _core.cuda_compiled
