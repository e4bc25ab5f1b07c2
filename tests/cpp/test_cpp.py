"""The C++ library's own tests, without Python."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from tests.support.commands import must


def test_the_tests_in_cpp_pass(googletest, request):
    if not googletest:
        pytest.skip("CMake finds no GoogleTest (libgtest-dev)")
    build = request.getfixturevalue("build")
    output = must("ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error")
    assert "100% tests passed" in output


def test_a_model_that_generates_is_clean_for_valgrind(googletest, request):
    """Memcheck: nothing is read before it was written or beyond its end, and nothing is lost."""
    if not googletest or shutil.which("valgrind") is None:
        pytest.skip("needs GoogleTest (libgtest-dev) and valgrind")
    build = request.getfixturevalue("build")
    strict = [
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite,indirect",
    ]
    # Valgrind shows the program a machine with AVX2. Threads that sleep let the others run.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    must(
        "valgrind", "--quiet", *strict, build / "fusedlm_tests", "--gtest_filter=Engine.*:Generator.*",
        env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16"])
def test_kernels_share_no_function_with_those_of_another_instruction_set(build, isa):
    """The linker keeps one copy of an inline function: the wrong one ends in SIGILL on older machines."""
    objects = sorted(build.glob(f"CMakeFiles/fusedlm_{isa}.dir/**/*.o"))
    if not objects:
        pytest.skip(f"there is no {isa} on this kind of machine")
    weak = re.findall(r" [WVu] (.*)", must("nm", "--demangle", "--defined-only", *objects))
    shared = {name for name in weak if f"::{isa}::" not in name}
    assert shared <= {"DW.ref.__gxx_personality_v0"}
