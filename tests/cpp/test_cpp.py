"""The C++ library's own tests, without Python."""

from __future__ import annotations

import re

import pytest

from tests.support.commands import must


def test_the_tests_in_cpp_pass(googletest, request):
    if not googletest:
        pytest.skip("CMake finds no GoogleTest (libgtest-dev)")
    build = request.getfixturevalue("build")
    output = must("ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error")
    assert "100% tests passed" in output


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16"])
def test_kernels_share_no_function_with_those_of_another_instruction_set(build, isa):
    """The linker keeps one copy of an inline function: the wrong one ends in SIGILL on older machines."""
    objects = sorted(build.glob(f"CMakeFiles/fusedlm_{isa}.dir/**/*.o"))
    if not objects:
        pytest.skip(f"there is no {isa} on this kind of machine")
    weak = re.findall(r" [WVu] (.*)", must("nm", "--demangle", "--defined-only", *objects))
    shared = {name for name in weak if f"::{isa}::" not in name}
    assert shared <= {"DW.ref.__gxx_personality_v0"}
