#!/usr/bin/env python3
"""Registers, spills, shared memory and occupancy of every CUDA kernel, as the compiler reports them.

    tools/cuda_report.py [--arch 80 90] [--only adamw rope] [--output docs/cuda_kernels.md]

Compiles csrc/cuda/*.cu to PTX with nvcc (launch bounds are read there) and that with ptxas -v. Ends
with 1 where a kernel spills that SPILLS does not excuse. No GPU is needed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Spills that are meant: "file: kernel" (a whole name or its beginning) -> reason.
_OPTIONS = (
    "28 bytes at most, with masks, softcap, dropout or pages; the plain instances spill nothing"
)
SPILLS: dict[str, str] = {
    "layer_norm: forward_kernel<row<1, 256, 32>": "4 bytes, in rows that are read one by one",
    "layer_norm: forward_kernel<row<8, 256, 0>": "4 bytes on sm_80, in rows too long for registers",
    "attention_backward_keys: keys_kernel<Shape<64>, bf16, true>": _OPTIONS,
    "attention_backward_keys: keys_kernel<Shape<64>, f16, true>": _OPTIONS,
    # On sm_120 alone.
    "attention_forward: forward_kernel<Shape<64>, bf16, options>": _OPTIONS,
    "attention_forward: forward_kernel<Shape<64>, bf16, paged>": _OPTIONS,
    "attention_forward: forward_kernel<Shape<64>, f16, options>": _OPTIONS,
    "attention_forward: forward_kernel<Shape<64>, f16, paged>": _OPTIONS,
    "attention_decode: decode_kernel<Shape<192>, bf16, options>": _OPTIONS,
    "attention_decode: decode_kernel<Shape<192>, f16, options>": _OPTIONS,
}


@dataclass(frozen=True)
class Gpu:
    """What a multiprocessor has (CUDA programming guide, compute capabilities)."""

    name: str
    shared: int
    registers: int = 65536
    warps: int = 64
    blocks: int = 32


GPUS = {
    80: Gpu("A100", shared=164 << 10),
    90: Gpu("H100", shared=228 << 10),
    100: Gpu("B200", shared=228 << 10),
    120: Gpu("RTX 5090", shared=100 << 10, warps=48, blocks=24),
}


@dataclass(frozen=True)
class Kernel:
    name: str
    threads: int
    registers: int
    shared: int
    spilled: int


def occupancy(kernel: Kernel, gpu: Gpu) -> float:
    """The share of a multiprocessor's warps that can be there at once, without dynamic memory."""
    warps = -(-kernel.threads // 32)
    # Registers are given to a warp by 256, and to warps by fours; a block takes 1 KiB for itself.
    by_registers = gpu.registers // (-(-kernel.registers * 32 // 256) * 256) // 4 * 4 // warps
    by_shared = gpu.shared // (1024 + -(-kernel.shared // 128) * 128)
    return min(by_registers, by_shared, gpu.warps // warps, gpu.blocks) * warps / gpu.warps


def readable(demangled: str) -> str:
    """rows_kernel<8, bf16, f32> of a demangled signature."""
    name = demangled.replace("(anonymous namespace)::", "")
    for long, short in (
        ("void ", ""),
        ("fusedlm::", ""),
        ("cuda::", ""),
        ("bfloat16", "bf16"),
        ("float16", "f16"),
        ("float", "f32"),
        ("RowPlan<", "row<"),
        ("(Variant)0", "plain"),
        ("(Variant)1", "options"),
        ("(Variant)2", "paged"),
    ):
        name = name.replace(long, short)
    name = re.sub(r"std::integral_constant<\w+, (\w+)>", r"\1", name)
    depth = 0
    for i, letter in enumerate(name):  # the parameters are all that follows the template's own
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def launch_bounds(ptx: str) -> dict[str, int]:
    """Threads of a block, by mangled name."""
    entries = re.findall(r"\.entry (\w+)\((?:[^{]*?)\)([^{]*)\{", ptx)
    bounds = {}
    for name, directives in entries:
        sizes = re.search(r"\.maxntid ([\d, ]+)", directives)
        threads = 1
        for size in sizes.group(1).split(",") if sizes else ["1024"]:
            threads *= int(size)
        bounds[name] = threads
    return bounds


def kernels(log: str, bounds: dict[str, int], demangle) -> list[Kernel]:
    """What `ptxas -v` says of each kernel, in order of name."""
    found = []
    for part in log.split("Compiling entry function '")[1:]:
        mangled = part.split("'", 1)[0]
        number = lambda pattern, part=part: int((re.search(pattern, part) or ["", "0"])[1])  # noqa: E731
        found.append((mangled, number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"),
                      number(r"(\d+) bytes spill stores")))  # fmt: skip
    names = demangle([f[0] for f in found])
    return sorted(
        (
            Kernel(readable(name), bounds[mangled], *rest)
            for name, (mangled, *rest) in zip(names, found, strict=True)
        ),
        key=lambda k: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", k.name)],
    )


def demangle(names: list[str]) -> list[str]:
    text = "\n".join(names)
    return run(["c++filt"], input=text).stdout.splitlines() if names else []


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def compile_file(source: Path, arch: int, folder: Path) -> list[Kernel]:
    ptx = folder / "kernels.ptx"
    run(["nvcc", "-std=c++20", "--expt-relaxed-constexpr", "-ptx", f"-arch=compute_{arch}",
         f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/include", str(source), "-o", str(ptx)])  # fmt: skip
    log = run(["ptxas", "-v", f"-arch=sm_{arch}", str(ptx), "-o", str(folder / "kernels.cubin")])
    return kernels(log.stderr + log.stdout, launch_bounds(ptx.read_text()), demangle)


def table(by_arch: dict[int, list[Kernel]]) -> list[str]:
    gpus = [GPUS[arch] for arch in by_arch]
    head = ["kernel", "threads"]
    for arch, gpu in zip(by_arch, gpus, strict=True):
        head += [f"registers sm_{arch}", "spilled", f"occupancy {gpu.name}"]
    lines = [[*head, "static shared"]]
    columns = [{k.name: k for k in found} for found in by_arch.values()]
    for name in columns[0]:
        cells = [f"`{name}`", str(columns[0][name].threads)]
        for column, gpu in zip(columns, gpus, strict=True):
            k = column[name]
            cells += [str(k.registers), str(k.spilled), f"{100 * occupancy(k, gpu):.0f} %"]
        lines.append([*cells, str(columns[0][name].shared)])
    lines.insert(1, ["---", *["--:"] * (len(head))])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def excused(where: str) -> bool:
    return any(where.startswith(known) for known in SPILLS)


INTRODUCTION = """# CUDA kernels as compiled

Written by `tools/cuda_report.py` with {version}. One line for each instance of a kernel: threads of a
block (its launch bounds), registers of a thread, bytes spilled, static shared memory in bytes, and the
share of a multiprocessor's warps that registers, static shared memory and block size allow. Shared
memory that a launch asks for by itself (pipelines of products and attention) is not known to the
compiler, so there the occupancy is an upper bound. `row<V, threads, kept>` is how rows are read: V
elements an access, so many threads a row, so many elements kept in registers of each.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=GPUS)
    parser.add_argument("--only", nargs="+", default=[], help="files without their .cu")
    parser.add_argument("--output", type=Path, help="a Markdown file; by default the screen")
    options = parser.parse_args()
    version = re.search(r"release [\d.]+", run(["nvcc", "--version"]).stdout)
    text = [INTRODUCTION.format(version=f"nvcc {version[0]}" if version else "nvcc")]
    bad = []
    for source in sorted((ROOT / "csrc/cuda").glob("*.cu")):
        if options.only and source.stem not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            by_arch = {arch: compile_file(source, arch, Path(folder)) for arch in options.arch}
        if not by_arch[options.arch[0]]:
            continue
        text += [f"## {source.stem}", "", *table(by_arch), ""]
        bad += [
            f"{source.stem}: {k.name} spills {k.spilled} bytes on sm_{arch}"
            for arch, found in by_arch.items()
            for k in found
            if k.spilled and not excused(f"{source.stem}: {k.name}")
        ]
        print(f"{source.stem}: {len(by_arch[options.arch[0]])} kernels", file=sys.stderr)
    if options.output:
        options.output.write_text("\n".join(text))
    else:
        print("\n".join(text))
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
