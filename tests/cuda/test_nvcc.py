"""What nvcc says of the CUDA kernels, for machines without a GPU: they compile, and spill nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH"),
    pytest.mark.timeout(2400),
]


def must(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-8000:]}"


def test_every_kernel_compiles_for_every_architecture_without_a_warning(tmp_path):
    must("cmake", "-S", ROOT, "-B", tmp_path, "-DFUSEDLM_CUDA=ON", "-DFUSEDLM_WERROR=ON")
    must("cmake", "--build", tmp_path, "--target", "fusedlm_cuda", "-j2")


def test_no_kernel_spills_but_those_that_are_meant_to():
    must(sys.executable, ROOT / "tools" / "cuda_report.py", "--arch", 80, 90)
