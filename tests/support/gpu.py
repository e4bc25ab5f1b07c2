"""Whether CUDA kernels can run here, on a GPU or under their emulator."""

from __future__ import annotations

import shutil

import pytest
import torch

import fusedlm

from .emulator import HOW_TO_EMULATE

HAS_GPU = torch.cuda.is_available() and fusedlm.cuda_compiled()
HAS_EMULATOR = "simt" in fusedlm.available_isas()
ON_GPU = ("simt", "cuda")  # names under which the kernels of a GPU run, emulated or not
NO_GPU = "no GPU, or a build without CUDA kernels (FUSEDLM_CUDA=ON)"

# Parameters of a fixture, skipped where they cannot run: a test that is not there tells nobody.
EMULATED = pytest.param(
    "simt",
    marks=pytest.mark.skipif(
        not HAS_EMULATOR, reason=f"built without the emulator of CUDA kernels; {HOW_TO_EMULATE}"
    ),
)
ON_DEVICE = pytest.param("cuda", marks=pytest.mark.skipif(not HAS_GPU, reason=NO_GPU))


def what_can_run() -> list[str]:
    """What this build and this machine have for CUDA kernels, in two lines for the log of a test run."""
    emulator, cuda = (
        "with" if has else "without" for has in (HAS_EMULATOR, fusedlm.cuda_compiled())
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        f"fusedlm: built {emulator} the emulator of CUDA kernels (simt), {cuda} CUDA kernels",
        f"GPU: {gpu}; nvcc: {shutil.which('nvcc') or 'not on the PATH'}",
    ]
