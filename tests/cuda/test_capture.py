"""Calls can be captured in a CUDA graph: what they run neither waits for the GPU nor allocates but in
the order of the stream. Read from the sources, for machines without a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
SOURCES = sorted(p for p in CUDA.iterdir() if p.suffix in (".cu", ".h"))
# What waits, allocates or copies; the legacy default stream; launches around `launch`.
CALLS = re.compile(
    r"\bcuda(?:\w*Synchronize|Malloc\w*|Free\w*|Memcpy(?!\w*To)\w*|Memset\w*|Host\w+|StreamDefault"
    r"|StreamLegacy|EventQuery|StreamQuery)\b|<<<"
)


def calls_in(name: str) -> list[str]:
    code = re.sub(r"//.*", "", (CUDA / name).read_text())
    return CALLS.findall(code)


def test_there_are_sources():
    assert {"device.cu", "launch.h", "gemm.cu"} <= {p.name for p in SOURCES}


@pytest.mark.parametrize("name", [p.name for p in SOURCES if p.name != "device.cu"])
def test_no_kernel_file_waits_allocates_or_copies(name):
    assert calls_in(name) == (["<<<"] if name == "launch.h" else [])


def test_scratch_comes_in_the_order_of_the_stream_and_one_function_waits():
    assert calls_in("device.cu") == [
        "cudaMallocAsync", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaFreeAsync",
    ]  # fmt: skip


def test_only_a_norm_that_is_asked_for_on_the_host_is_waited_for():
    users = [p.name for p in SOURCES if p.suffix == ".cu" and "copy_to_host(" in p.read_text()]
    assert users == ["adamw.cu", "device.cu"]
    line = next(li for li in (CUDA / "adamw.cu").read_text().splitlines() if "copy_to_host(" in li)
    assert line.strip().startswith("if (args.norm) ")
