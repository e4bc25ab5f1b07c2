"""The tools that judge CUDA kernels without a GPU: what they read of the compiler, what they count."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


report, planner = tool("cuda_report"), tool("cuda_planner")

PTX = """
.visible .entry rows(
	.param .align 8 .b8 rows_param_0[80]
)
.maxntid 128
{
}
.visible .entry tiles(
	.param .u64 tiles_param_0,
	.param .u64 tiles_param_1
)
.maxntid 32, 4, 2
.minnctapersm 2
{
	{
	}
	// begin inline asm
	// dynamic shared memory: 65536 bytes
	// end inline asm
}
.visible .entry without_bounds(

)
{
}
"""
LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'tiles' for 'sm_80'
ptxas info    : Function properties for tiles
    40 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 33792 bytes smem, 432 bytes cmem[0]
ptxas info    : Compiling entry function 'rows' for 'sm_80'
ptxas info    : Function properties for rows
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 72 registers, used 0 barriers, 432 bytes cmem[0]
ptxas info    : Compiling entry function 'rows' for 'sm_120'
ptxas info    : Function properties for rows
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 70 registers, used 0 barriers
"""


def test_the_compilers_words_are_understood():
    launches = report.launches(PTX)
    tiles, rows = report.Launch(256, dynamic=65536), report.Launch(128)
    assert launches == {"rows": rows, "tiles": tiles, "without_bounds": report.Launch(1024)}
    assert report.kernels(LOG, launches, lambda names: names) == {
        80: [
            report.Kernel("rows", rows, registers=72, shared=0, spilled=0),
            report.Kernel("tiles", tiles, registers=128, shared=33792, spilled=24),
        ],
        120: [report.Kernel("rows", rows, registers=70, shared=0, spilled=0)],
    }


def test_what_was_said_of_each_file_is_found_in_a_builds_output():
    output = (
        "[1/4] Building CXX object CMakeFiles/fusedlm.dir/csrc/core/rope.cpp.o\n"
        "[2/4] Building CUDA object CMakeFiles/fusedlm_cuda.dir/csrc/cuda/rope.cu.o\n"
        "ptxas info    : 0 bytes gmem\n[these are words]\n"
        "[3/4] Building CUDA object CMakeFiles/fusedlm_cuda.dir/csrc/cuda/adamw.cu.o\n"
        "[4/4] Linking CXX static library libfusedlm.a\nof the linker\n"
    )
    assert report.logs(output) == {
        "rope": "\nptxas info    : 0 bytes gmem\n[these are words]\n", "adamw": "\n"
    }  # fmt: skip


def test_spills_beyond_their_excuse_and_idle_excuses_are_told():
    found = {"file": report.kernels(LOG, report.launches(PTX), lambda names: names)}

    def excuse(kernel, **granted):
        return report.Excuse(kernel, {int(a[3:]): count for a, count in granted.items()}, "a test")

    assert report.complaints(found, [excuse("file: til", sm_80=24)]) == []
    assert (
        report.complaints(found, [excuse("other: rows", sm_80=4), excuse("file: til", sm_80=24)])
        == []
    )
    assert report.complaints(found, []) == ["file: tiles spills 24 bytes on sm_80"]
    assert report.complaints(found, [excuse("file: til", sm_120=24)]) == [
        "file: tiles spills 24 bytes on sm_80",
        "file: til is excused 24 bytes on sm_120, needs 0",
    ]
    assert report.complaints(found, [excuse("file: til", sm_80=20)]) == [
        "file: tiles spills 24 bytes on sm_80, of which 20 are excused"
    ]
    assert report.complaints(found, [excuse("file: til", sm_80=28)]) == [
        "file: til is excused 28 bytes on sm_80, needs 24"
    ]


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "dynamic", "warps"),
    [
        (128, 32, 0, 0, 64),
        (128, 72, 0, 0, 28),  # 2304 registers a warp: 28 warps
        (256, 128, 0, 0, 16),  # 4096 registers a warp
        (128, 32, 48 << 10, 0, 12),  # 49 KiB of 164 a block: three blocks
        (128, 32, 16 << 10, 60 << 10, 8),  # 77 KiB: two blocks
        (32, 16, 0, 0, 32),  # no more than 32 blocks
    ],
)
def test_occupancy_counts_registers_shared_memory_and_blocks(
    threads, registers, shared, dynamic, warps
):
    kernel = report.Kernel("k", report.Launch(threads, dynamic), registers, shared, 0)
    assert report.occupancy(kernel, report.GPUS[80]) == warps / 64


def test_names_are_short():
    long = (
        "void fusedlm::cuda::(anonymous namespace)::forward_kernel<fusedlm::cuda::RowPlan<8, 32, 32>,"
        " fusedlm::bfloat16, float>(fusedlm::cuda::(anonymous namespace)::Forward<float, float>)"
    )
    assert report.readable(long) == "forward_kernel<row<8, 32, 32>, bf16, f32>"


def test_a_step_needs_six_flops_a_parameter_and_token():
    # Kaplan et al. 2020: 6 N P; the embedding's rows are not multiplied, attention comes on top.
    m = planner.GPT2
    multiplied = m.parameters - m.T * m.C  # the tied table is, as the head
    attention = 7 * m.L * m.B * m.H * m.T**2 * m.D
    products = sum(w.calls * w.flops for w in planner.step(m) if w.product)
    assert products == pytest.approx(6 * m.N * multiplied + attention)
    assert m.parameters == pytest.approx(124e6, rel=0.01)
    assert planner.LLAMA.parameters == pytest.approx(8.0e9, rel=0.01)


def test_every_op_with_cuda_kernels_is_in_the_roofline():
    public = {header.stem for header in (TOOLS.parent / "csrc/include/fusedlm").glob("*.h")}
    ops = public & {source.stem for source in (TOOLS.parent / "csrc/cuda").glob("*.cu")} - {
        "device"
    }
    works = [*planner.step(planner.GPT2), *planner.step(planner.LLAMA), *planner.others()]
    works += planner.token(planner.GPT2, 1, 1)
    named = {re.split("[ ,]", work.name)[0] for work in works}
    called = {"linear": "projection", "adamw": "adamw_step", "sampling": "sample"}
    assert {called.get(op, op) for op in ops} <= named and len(ops) > 10


def test_the_written_roofline_is_that_of_the_tool():
    assert (TOOLS.parent / "docs/cuda_roofline.md").read_text() == planner.document()
