"""FUSEDLM_CUDA and FUSEDLM_SIMT: which builds have CUDA kernels. Configured, not compiled."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.commands import run

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")
# What CMake would look for, given: no compiler; neither a driver nor nvidia-smi.
WITHOUT_NVCC = "-DCMAKE_CUDA_COMPILER=CMAKE_CUDA_COMPILER-NOTFOUND"
WITHOUT_DRIVER = ("-Dcuda_driver:FILEPATH=", "-Dnvidia_smi:FILEPATH=")


@pytest.fixture
def configure(configures, tmp_path):
    """configure(*options): CMake's exit code and output, and whether the build would compile .cu files."""

    def call(*options: str, **environment: str) -> tuple[int, str, bool]:
        options = ("-DFUSEDLM_ISAS=scalar", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options)
        done = run("cmake", "-S", ROOT, "-B", tmp_path, *options, env={**os.environ, **environment})
        commands = tmp_path / "compile_commands.json"
        cuda = commands.exists() and "csrc/cuda/adamw.cu" in commands.read_text()
        return done.returncode, re.sub(r"\s+", " ", done.stdout), cuda

    return call


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("FUSEDLM_CUDA=OF", "FUSEDLM_CUDA is 'OF', expected AUTO, ON or OFF"),
        ("FUSEDLM_CUDA=", "FUSEDLM_CUDA is '', expected AUTO, ON or OFF"),
        ("FUSEDLM_SIMT=CHEKED", "FUSEDLM_SIMT is 'CHEKED', expected OFF, ON or CHECKED"),
    ],
)
def test_a_mistyped_value_is_named(configure, option, message):
    code, output, _ = configure("-DFUSEDLM_CUDA=OFF", f"-D{option}")
    assert code != 0 and message in output


def test_off_builds_for_the_cpu(configure):
    code, output, cuda = configure("-DFUSEDLM_CUDA=OFF")
    assert code == 0 and not cuda, output


def test_on_insists_on_a_compiler(configure):
    code, output, _ = configure("-DFUSEDLM_CUDA=ON", CUDACXX="/nowhere/nvcc")
    assert code != 0 and "CUDA" in output


def test_auto_does_without_a_compiler(configure):
    code, output, cuda = configure(WITHOUT_NVCC)
    assert code == 0 and not cuda, output


@needs_nvcc
def test_on_needs_no_driver(configure):
    code, output, cuda = configure("-DFUSEDLM_CUDA=ON", *WITHOUT_DRIVER)
    assert code == 0 and cuda, output


@needs_nvcc
def test_auto_takes_no_minutes_of_nvcc_where_there_is_no_driver(configure):
    code, output, cuda = configure(*WITHOUT_DRIVER)
    assert code == 0 and not cuda, output


@needs_nvcc
def test_auto_builds_for_a_machine_with_compiler_and_driver(configure, tmp_path):
    code, output, cuda = configure(f"-Dcuda_driver={tmp_path}/libcuda.so.1")
    assert code == 0 and cuda, output
