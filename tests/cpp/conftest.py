"""The C++ library, built and installed once for all tests in this folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.commands import must, run

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    # Whichever test comes first waits for the build: minutes on a slow machine.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def configures(tmp_path_factory):
    """configures("find_package(GTest REQUIRED)"): does CMake get through a project of that?"""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not on the PATH")

    def probe(*lines: str, options: tuple[str, ...] = ()) -> bool:
        source = tmp_path_factory.mktemp("probe")
        project = ["cmake_minimum_required(VERSION 3.21)", "project(probe CXX)", *lines]
        (source / "CMakeLists.txt").write_text("\n".join(project))
        return run("cmake", "-S", source, "-B", source / "build", *options).returncode == 0

    if not probe():
        pytest.skip("CMake finds no working C++ compiler")
    return probe


@pytest.fixture(scope="session")
def googletest(configures) -> bool:
    return configures("find_package(GTest REQUIRED)")


@pytest.fixture(scope="session")
def cmake_build(configures):
    """cmake_build(source, folder, *options) configures and builds, by way of ccache where there is one."""
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []

    def call(source: Path, folder: Path, *options: str) -> Path:
        must("cmake", "-S", source, "-B", folder, *launcher, *options)
        must("cmake", "--build", folder, "-j2")
        return folder

    return call


@pytest.fixture(scope="session")
def build(googletest, cmake_build, tmp_path_factory) -> Path:
    """The library, with its tests if there is a GoogleTest to build them with.

    FUSEDLM_TEST_BUILD names a build folder that is brought up to date instead of a new one.
    """
    tests = "ON" if googletest else "OFF"
    # With the tests comes the emulator, so that CUDA kernels are tested here on any machine.
    options = [f"-DFUSEDLM_TESTS={tests}", f"-DFUSEDLM_SIMT={tests}", "-DFUSEDLM_WERROR=ON"]
    if given := os.environ.get("FUSEDLM_TEST_BUILD"):
        must("cmake", "--build", given, "-j2")
        return Path(given)
    return cmake_build(ROOT, tmp_path_factory.mktemp("cpp"), *options)


@pytest.fixture(scope="session")
def prefix(build, tmp_path_factory) -> Path:
    """Where the library is installed; moved afterwards, so that no path may be absolute."""
    folder = tmp_path_factory.mktemp("install")
    must("cmake", "--install", build, "--prefix", folder / "at_first")
    return (folder / "at_first").rename(folder / "moved")


@pytest.fixture(scope="session")
def examples(prefix, cmake_build, tmp_path_factory) -> Path:
    """examples/cpp, built against the installed library."""
    folder = tmp_path_factory.mktemp("examples")
    return cmake_build(ROOT / "examples" / "cpp", folder, f"-DCMAKE_PREFIX_PATH={prefix}")
