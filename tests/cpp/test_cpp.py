"""The C++ library without Python: its own tests, and a program that uses what it installs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Every kernel is compiled for every instruction set: minutes on a slow machine.
pytestmark = pytest.mark.timeout(1800)


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def must(*command: object) -> str:
    done = run(*command)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-8000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def configures(tmp_path_factory):
    """configures("find_package(GTest REQUIRED)"): does CMake get through a project of that?"""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not on the PATH")

    def probe(*lines: str) -> bool:
        source = tmp_path_factory.mktemp("probe")
        project = ["cmake_minimum_required(VERSION 3.20)", "project(probe CXX)", *lines]
        (source / "CMakeLists.txt").write_text("\n".join(project))
        return run("cmake", "-S", source, "-B", source / "build").returncode == 0

    if not probe():
        pytest.skip("CMake finds no working C++ compiler")
    return probe


@pytest.fixture(scope="session")
def googletest(configures) -> bool:
    return configures("find_package(GTest REQUIRED)")


@pytest.fixture(scope="session")
def build(googletest, tmp_path_factory) -> Path:
    """The library, built once, with its tests if there is a GoogleTest to build them with."""
    folder = tmp_path_factory.mktemp("cpp")
    tests = "ON" if googletest else "OFF"
    # With the tests comes the emulator, so that CUDA kernels are tested here on any machine.
    options = [f"-DFUSEDLM_TESTS={tests}", f"-DFUSEDLM_SIMT={tests}", "-DFUSEDLM_WERROR=ON"]
    must("cmake", "-S", ROOT, "-B", folder, *options)
    must("cmake", "--build", folder, "-j2")
    return folder


def test_the_tests_in_cpp_pass(googletest, request):
    if not googletest:
        pytest.skip("CMake finds no GoogleTest (libgtest-dev)")
    build = request.getfixturevalue("build")
    output = must("ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error")
    assert "100% tests passed" in output


def test_the_example_finds_the_installed_library_and_runs(build, tmp_path):
    prefix = tmp_path / "prefix"
    must("cmake", "--install", build, "--prefix", prefix)
    example = tmp_path / "example"
    must("cmake", "-S", ROOT / "examples" / "cpp", "-B", example, f"-DCMAKE_PREFIX_PATH={prefix}")
    must("cmake", "--build", example)
    assert must(example / "example").endswith(": out[0] = 2.000\n")
