"""Programs that use the installed C++ library: found by CMake, by pkg-config, as a subproject, in the wheel."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusedlm import cpp
from tests.support.commands import must, run
from tests.support.tiny import save_tiny_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "cpp"
RESULT = ": out[0] = 2.000\n"  # of examples/cpp/attention.cpp
STRICT = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture(scope="session")
def compiler(configures) -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    pytest.skip("there is no C++ compiler on the PATH")


def losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"loss ([0-9.]+)", output)]


def test_a_program_finds_the_moved_library_by_cmake(examples):
    assert must(examples / "attention").endswith(RESULT)


def test_the_training_example_learns_its_text(examples):
    found = losses(must(examples / "train_step", "--steps", 60))
    assert found[0] > 5 and found[-1] < found[0] / 3


def test_the_training_example_is_the_same_for_any_number_of_threads(examples):
    one, two = (losses(must(examples / "train_step", "--steps", 5, "--threads", n)) for n in (1, 2))
    assert one == two


def test_the_training_example_learns_a_file(examples, tmp_path):
    (tmp_path / "count.txt").write_text("one two three four five six seven\n" * 20)
    output = must(examples / "train_step", tmp_path / "count.txt", "--steps", 60)
    assert "three four five" in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--stepz", "3"], "error: unknown option --stepz"),
        (["--steps"], "error: --steps needs a value"),
        (["--steps", "3x"], "error: --steps is '3x', expected a number"),
        (["missing.txt"], "error: missing.txt cannot be opened"),
    ],
)
def test_mistakes_on_the_command_line_are_named(examples, arguments, message):
    done = run(examples / "train_step", *arguments)
    assert done.returncode in (1, 2)
    assert done.stdout.splitlines()[0] == message


@pytest.fixture(scope="session")
def compiled(compiler, tmp_path_factory):
    """compiled(folder of fusedlm.pc): examples/cpp/attention.cpp by the compiler and pkg-config alone."""
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not on the PATH")

    def call(pkgconfig: Path) -> Path:
        path = {**os.environ, "PKG_CONFIG_PATH": str(pkgconfig)}
        flags = must("pkg-config", "--cflags", "--libs", "fusedlm", env=path).split()
        program = tmp_path_factory.mktemp("compiled") / "attention"
        must(compiler, *STRICT, EXAMPLES / "attention.cpp", *flags, "-o", program)
        return program

    return call


def test_pkg_config_and_the_compiler_are_enough(prefix, compiled):
    assert must(compiled(pkgconfig_of(prefix))).endswith(RESULT)


def pkgconfig_of(prefix: Path) -> Path:
    return next(prefix.glob("lib*/**/pkgconfig"))


def test_every_public_header_stands_alone_without_a_warning(prefix, compiler, tmp_path):
    headers = sorted((prefix / "include" / "fusedlm").glob("*.h"))
    assert headers

    def check(header: Path) -> None:
        source = tmp_path / f"{header.stem}.cpp"
        # Twice: it must bear being included again.
        source.write_text(f"#include <fusedlm/{header.name}>\n" * 2)
        must(compiler, *STRICT, "-fsyntax-only", "-I", prefix / "include", source)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, headers))


@pytest.mark.parametrize("document", ["README.md", "docs/cpp.md", "docs/engine.md"])
def test_the_programs_in_the_documents_compile(prefix, compiler, tmp_path, document):
    programs = re.findall(r"```cpp\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert programs
    for program in programs:
        (tmp_path / "program.cpp").write_text(program)
        include = ["-I", prefix / "include"]
        must(compiler, *STRICT, "-fsyntax-only", *include, tmp_path / "program.cpp")


def test_cmake_takes_the_same_minor_version_alone(prefix, configures):
    text = (prefix / "include" / "fusedlm" / "version.h").read_text()
    major, minor, _ = map(int, re.search(r'FUSEDLM_VERSION "(.*)"', text)[1].split("."))
    where = (f"-DCMAKE_PREFIX_PATH={prefix}",)
    assert configures(f"find_package(fusedlm {major}.{minor} REQUIRED)", options=where)
    for other in (f"{major}.{minor + 1}", f"{major + 1}.0"):
        assert not configures(f"find_package(fusedlm {other} REQUIRED)", options=where)


# The project of somebody who has fusedlm in a folder of it.
PARENT = f"""
cmake_minimum_required(VERSION 3.21)
project(parent LANGUAGES CXX)
get_cmake_property(before CACHE_VARIABLES)
add_subdirectory("{ROOT}" fusedlm)
get_cmake_property(after CACHE_VARIABLES)
list(REMOVE_ITEM after ${{before}})
list(FILTER after EXCLUDE REGEX "^(FUSEDLM_|fusedlm_|OpenMP_|FIND_PACKAGE_MESSAGE_|CMAKE_PROJECT_)")
list(APPEND after ${{CMAKE_BUILD_TYPE}} ${{CMAKE_CXX_STANDARD}} ${{BUILD_TESTING}})
file(WRITE "${{CMAKE_BINARY_DIR}}/leaked.txt" "${{after}}")
add_executable(attention "{EXAMPLES}/attention.cpp")
target_link_libraries(attention PRIVATE fusedlm::fusedlm)
"""


@pytest.fixture(scope="module", params=["OFF", "ON"])
def shared(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def subproject(cmake_build, tmp_path_factory, shared) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    (folder / "CMakeLists.txt").write_text(PARENT)
    # One instruction set, so that this takes seconds.
    options = ["-DFUSEDLM_ISAS=scalar", "-DFUSEDLM_CUDA=OFF", f"-DBUILD_SHARED_LIBS={shared}"]
    return cmake_build(folder, folder / "build", *options)


def test_a_project_takes_the_library_in_as_a_subproject(subproject, shared, tmp_path):
    build = subproject
    assert must(build / "attention") == f"scalar{RESULT}"
    must("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    assert not list(tmp_path.glob("prefix/**/*.h"))
    assert (build / "leaked.txt").read_text() == ""
    library = "fusedlm/libfusedlm.so" if shared == "ON" else "fusedlm/libfusedlm.a"
    assert (build / library).exists()


def assert_generates(program: Path, folder: Path) -> None:
    model = save_tiny_model(folder / "model")
    assert must(program, model, "the quick", "--max-new-tokens", 4).startswith("the quick")


def test_an_installed_library_of_either_kind_is_found_where_it_was_moved(
    subproject, shared, cmake_build, compiled, tmp_path
):
    parent = subproject.parent
    build = cmake_build(parent, subproject, "-DFUSEDLM_INSTALL=ON")  # nothing is compiled again
    must("cmake", "--install", build, "--prefix", tmp_path / "at_first")
    prefix = (tmp_path / "at_first").rename(tmp_path / "moved")
    libraries = {file.name for file in prefix.glob("lib*/**/libfusedlm*")}
    assert ("libfusedlm.so" in libraries) == (shared == "ON")
    assert ("libfusedlm.a" in libraries) == (shared == "OFF")
    found = cmake_build(EXAMPLES, tmp_path / "examples", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert must(found / "attention") == f"scalar{RESULT}"
    assert_generates(found / "generate", tmp_path)
    program = compiled(pkgconfig_of(prefix))
    library = pkgconfig_of(prefix).parent
    assert must(program, env={**os.environ, "LD_LIBRARY_PATH": str(library)}) == f"scalar{RESULT}"
    linked = f"{library.resolve()}/libfusedlm.so." in must("ldd", found / "attention")
    assert linked == (shared == "ON")


def test_the_pip_package_carries_the_library(cmake_build, compiled, tmp_path):
    try:
        folder = cpp.cmake_dir()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    where = must("fusedlm", "--cmake-dir").strip()
    assert where == str(folder)
    build = cmake_build(EXAMPLES, tmp_path, f"-Dfusedlm_DIR={where}")
    assert must(build / "attention").endswith(RESULT)
    assert_generates(build / "generate", tmp_path)
    assert must(compiled(Path(must("fusedlm", "--pkgconfig-dir").strip()))).endswith(RESULT)
    assert (Path(must("fusedlm", "--include-dir").strip()) / "fusedlm" / "attention.h").is_file()
