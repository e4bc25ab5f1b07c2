"""tools/wheel: programs linked for an older system ask for nothing that it lacks, and run here."""

from __future__ import annotations

import re
import shutil
import sys

import pytest

from tests.support.commands import must

pytest.importorskip("auditwheel")
from tools.wheel import older_system
from tools.wheel.older_system import Symbol

# Each of these is newer than manylinux_2_28 where the compiler's own libraries are: the default versions of log
# and fstat, std::filesystem, to_chars of a double, condition_variable::wait.
PROGRAM = """
#include <charconv>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <sys/stat.h>

extern "C" int tried(const char* path) {
  struct stat status;
  if (fstat(0, &status) != 0 && stat(path, &status) != 0) return 1;
  char text[32];
  *std::to_chars(text, text + 31, std::log(std::exp(2.5))).ptr = 0;
  std::mutex mutex;
  std::condition_variable woken;
  std::unique_lock lock(mutex);
  woken.wait(lock, [] { return true; });
  std::puts(text);
  return std::filesystem::is_directory(path) ? 0 : 2;
}
"""
PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(trial CXX)
set(CMAKE_CXX_STANDARD 20)
add_library(trial MODULE trial.cpp)
include({root}/cmake/older_system.cmake)
set(PROJECT_SOURCE_DIR {root})
fusedlm_link_for_older_system(trial {older})
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    if shutil.which("readelf") is None or shutil.which("c++") is None:
        pytest.skip("readelf and a C++ compiler are needed")
    folder = tmp_path_factory.mktemp("older")
    older_system.make(folder, "manylinux_2_28")
    return folder


@pytest.fixture(scope="module")
def linked(older, tmp_path_factory):
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not on the PATH")
    folder = tmp_path_factory.mktemp("trial")
    (folder / "trial.cpp").write_text(PROGRAM)
    root = older_system.ROOT
    (folder / "CMakeLists.txt").write_text(PROJECT.format(root=root, older=older))
    must("cmake", "-S", folder, "-B", folder / "build")
    must("cmake", "--build", folder / "build")
    return folder / "build" / "libtrial.so"


def test_a_library_asks_for_no_version_that_the_policy_lacks(linked):
    versions = set(
        re.findall(r"\b(?:GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+", must("objdump", "-T", linked))
    )
    assert versions
    assert versions <= older_system.allowed_versions("manylinux_2_28")


def test_what_the_older_system_lacks_is_inside_and_works(linked, tmp_path):
    call = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).tried(sys.argv[2].encode()))"
    assert must(sys.executable, "-c", call, linked, tmp_path) == "2.5\n"


def test_of_several_versions_the_newest_allowed_is_taken():
    rows = [
        ("log", "GLIBC_2.29"),
        ("log", "GLIBC_2.4"),
        ("log", "GLIBC_2.17"),
        ("fstat", "GLIBC_2.33"),
    ]
    symbols = (Symbol(name, version, "FUNC", 8) for name, version in rows)
    (taken,) = older_system.newest_allowed(symbols, {"GLIBC_2.4", "GLIBC_2.17"})
    assert taken == Symbol("log", "GLIBC_2.17", "FUNC", 8)
