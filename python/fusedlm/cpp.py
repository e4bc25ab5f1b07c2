"""Where this installation keeps the C++ library: headers, libfusedlm.a, CMake package, pkg-config file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["cmake_dir", "include_dir", "pkgconfig_dir"]


def include_dir() -> Path:
    """For the compiler: the folder that holds fusedlm/*.h."""
    return _inside("include")


def cmake_dir() -> Path:
    """For CMake: -Dfusedlm_DIR=<this>."""
    return _inside("lib/cmake/fusedlm")


def pkgconfig_dir() -> Path:
    """For pkg-config: PKG_CONFIG_PATH=<this>."""
    return _inside("lib/pkgconfig")


def _inside(name: str) -> Path:
    # Beside the extension, which an editable installation keeps elsewhere than the Python files.
    extension = find_spec("fusedlm._core")
    origin = None if extension is None else extension.origin
    root = Path(__file__ if origin is None else origin).parent
    if not (root / name).is_dir():
        raise FileNotFoundError(
            f"{root / name} is missing: this fusedlm was not installed by pip;"
            " `cmake --install` puts the C++ library anywhere, docs/cpp.md says how"
        )
    return root / name
