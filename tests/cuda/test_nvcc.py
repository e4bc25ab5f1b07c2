"""What nvcc makes of the CUDA kernels, on machines without a GPU: they compile, spill nothing, and load."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "cuda_kernels.md"
pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH"),
    pytest.mark.timeout(2400),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nvcc")


@pytest.fixture(scope="module")
def report(folder) -> tuple[int, str, str]:
    """The tool that builds every kernel, in folder/build: exit code, what it said and what it wrote."""
    code, said = run(
        sys.executable, ROOT / "tools" / "cuda_report.py",
        "--build", folder / "build", "--output", folder / "kernels.md",
    )  # fmt: skip
    written = folder / "kernels.md"
    return code, said, written.read_text() if written.exists() else ""


def run(*command: object, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_every_kernel_compiles_for_every_architecture_without_a_warning_or_a_spill_unmeant(report):
    code, said, written = report
    assert code == 0, said[-8000:]
    for arch in (80, 90, 100, 120):
        assert f"registers sm_{arch}" in written


def test_the_committed_report_is_that_of_the_tool(report):
    committed = DOCUMENT.read_text()
    theirs = re.search(r"nvcc release [\d.]+", committed)[0]
    if theirs not in report[2]:
        pytest.skip(f"docs/cuda_kernels.md was written with {theirs}, here is another")
    assert report[2] == committed


WITHOUT_DRIVER = """
import torch, fusedlm
from fusedlm import ops
assert fusedlm.cuda_compiled()
x, weight = torch.randn(3, 17, requires_grad=True), torch.randn(17)
y = ops.layer_norm(x, weight)
torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (17,), weight))
y.sum().backward()
"""


def test_a_build_with_cuda_works_where_there_is_no_driver(report, folder):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver")
    pybind11 = pytest.importorskip("pybind11")
    build, package = folder / "build", folder / "package" / "fusedlm"
    python = (f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
    for command in (("-S", ROOT, "-B", build, "-DFUSEDLM_PYTHON=ON", *python), ("--build", build)):
        code, said = run("cmake", *command)
        assert code == 0, said[-8000:]
    shutil.copytree(
        ROOT / "python" / "fusedlm", package, ignore=shutil.ignore_patterns("_core.*so")
    )
    shutil.copy(next(build.glob("_core.*so")), package)
    code, said = run(sys.executable, "-c", WITHOUT_DRIVER, PYTHONPATH=str(package.parent))
    assert code == 0, said
    code, said = run(sys.executable, "-m", "fusedlm", "info", PYTHONPATH=str(package.parent))
    assert code == 0 and re.search(r"CUDA kernels compiled in +yes", said), said
