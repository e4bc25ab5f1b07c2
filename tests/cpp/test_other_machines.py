"""Machines that this one stands in for, under QEMU: x86 with SSE2 alone, and AArch64 with its NEON kernels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.commands import must

ROOT = Path(__file__).resolve().parents[2]
GOOGLETEST = Path("/usr/src/googletest")  # where Debian's libgtest-dev has its source
SYSROOT = Path("/usr/aarch64-linux-gnu")
# QEMU is slow: the main kernels against double precision, and the choice of an instruction set.
KERNELS = "Isa.*:Linear.*:Attention.*:RmsNorm.*:LayerNorm.*:GroupNorm.*:Ffn.*:Rope.*:Adamw.*"
TOOLCHAIN = f"""
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;{SYSROOT}")
"""


def passes(*command: object, isa: str) -> None:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "FUSEDLM_ISA": isa}
    output = must(*command, f"--gtest_filter={KERNELS}", env=environment)
    assert "[  PASSED  ]" in output


def test_a_machine_with_sse2_alone_takes_the_portable_kernels(googletest, request):
    if not googletest or shutil.which("qemu-x86_64") is None:
        pytest.skip("needs GoogleTest (libgtest-dev) and qemu-user")
    build = request.getfixturevalue("build")
    tests = [build / "fusedlm_tests"]
    # That nothing else is there to choose, and that choosing another one is refused, is tested by Isa.*.
    passes("qemu-x86_64", "-cpu", "qemu64,-pni", *tests, isa="scalar")


@pytest.fixture(scope="module")
def for_aarch64(cmake_build, tmp_path_factory):
    needed = ("aarch64-linux-gnu-g++", "qemu-aarch64")
    if any(shutil.which(name) is None for name in needed) or not GOOGLETEST.is_dir():
        pytest.skip(f"needs {' and '.join(needed)}, and the source of libgtest-dev")
    folder = tmp_path_factory.mktemp("aarch64")
    (folder / "toolchain.cmake").write_text(TOOLCHAIN)
    options = [f"-DCMAKE_TOOLCHAIN_FILE={folder / 'toolchain.cmake'}", "-DCMAKE_BUILD_TYPE=Release"]
    google = cmake_build(GOOGLETEST, folder / "googletest", *options)
    must("cmake", "--install", google, "--prefix", folder / "prefix")
    options += [f"-DGTest_DIR={folder / 'prefix/lib/cmake/GTest'}", "-DFUSEDLM_TESTS=ON"]
    return cmake_build(ROOT, folder / "build", *options, "-DFUSEDLM_CUDA=OFF") / "fusedlm_tests"


@pytest.mark.parametrize("isa", ["neon", "scalar"])
def test_aarch64_runs_its_kernels(for_aarch64, isa):
    passes("qemu-aarch64", "-L", SYSROOT, for_aarch64, isa=isa)
