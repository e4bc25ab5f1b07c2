#!/usr/bin/env python3
"""Registers, spills, shared memory and occupancy of every CUDA kernel, as the compiler reports them.

    tools/cuda_report.py [--arch 80 90 100 120] [--only adamw rope] [--output docs/cuda_kernels.md]

Builds csrc/cuda/*.cu and asks ptxas for what it made (-v); launch bounds and the shared memory that
launches ask for are read in the PTX. Ends with 1 where a kernel spills that EXCUSES does
not name, spills more than is excused, or where an excuse has nothing left to excuse. No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Excuse:
    """Spills that are meant: of "file: kernel" (a whole name or its beginning), so many bytes at most."""

    kernel: str
    bytes: dict[int, int]  # by architecture
    reason: str


_OPTIONS = "with masks, softcap, dropout or pages; plain attention spills nothing"
_ONE_MORE = "a register or two, for one block more on a multiprocessor"
_FULL = "the 255 registers that a thread can have, and attention with options wants more"
EXCUSES = [
    Excuse("attention_backward_keys: keys_kernel<Shape<64>, bf16, true>",
           {80: 12, 90: 8, 100: 148, 120: 24}, _FULL),
    Excuse("attention_backward_keys: keys_kernel<Shape<64>, f16, true>",
           {80: 12, 90: 8, 100: 148, 120: 24}, _FULL),
    Excuse("attention_decode: decode_kernel<Shape<192>, bf16, options>", {120: 20}, _OPTIONS),
    Excuse("attention_decode: decode_kernel<Shape<192>, f16, options>", {120: 20}, _OPTIONS),
    Excuse("attention_forward: forward_kernel<Shape<64>, bf16, options>", {120: 16}, _OPTIONS),
    Excuse("attention_forward: forward_kernel<Shape<64>, bf16, paged>", {100: 12, 120: 28}, _OPTIONS),
    Excuse("attention_forward: forward_kernel<Shape<64>, f16, options>", {120: 16}, _OPTIONS),
    Excuse("attention_forward: forward_kernel<Shape<64>, f16, paged>", {100: 12, 120: 28}, _OPTIONS),
    Excuse("attention_forward: forward_kernel<Shape<128>, bf16, options>", {100: 16}, _OPTIONS),
    Excuse("attention_forward: forward_kernel<Shape<128>, f16, options>", {100: 16}, _OPTIONS),
    Excuse("attention_forward_float: forward_kernel<Shape<64, 64, 128>, plain, false>", {100: 28},
           "seven registers of float32, for a second block on a multiprocessor"),
    Excuse("group_norm: backward_kernel<row<4, 256, 0>, 32, f32", {100: 12, 120: 4}, _ONE_MORE),
    Excuse("layer_norm: forward_kernel<row<1, 256, 32>", {120: 8}, _ONE_MORE),
    Excuse("layer_norm: forward_kernel<row<8, 256, 0>", {80: 4}, _ONE_MORE),
    Excuse("rms_norm: backward_kernel<row<8, 256, 16>", {100: 4}, _ONE_MORE),
    Excuse("rms_norm: forward_kernel<row<1, 32, 32>, f32", {100: 8, 120: 8}, _ONE_MORE),
]  # fmt: skip


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
class Launch:
    """What the PTX says of a kernel's launches: threads of a block and bytes of dynamic shared memory."""

    threads: int
    dynamic: int = 0


@dataclass(frozen=True)
class Kernel:
    name: str
    launch: Launch
    registers: int
    shared: int  # static, in bytes
    spilled: int


def occupancy(kernel: Kernel, gpu: Gpu) -> float:
    """The share of a multiprocessor's warps that can be there at once."""
    warps = -(-kernel.launch.threads // 32)
    # Registers are given to a warp by 256, and to warps by fours; a block takes 1 KiB for itself.
    by_registers = gpu.registers // (-(-kernel.registers * 32 // 256) * 256) // 4 * 4 // warps
    by_shared = gpu.shared // (1024 + -(-(kernel.shared + kernel.launch.dynamic) // 128) * 128)
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


def launches(ptx: str) -> dict[str, Launch]:
    """By mangled name."""
    found = {}
    for part in re.split(r"\.entry ", ptx)[1:]:
        name, directives, body = re.match(r"(\w+)\([^{]*?\)([^{]*)\{(.*)", part, re.DOTALL).groups()
        sizes = re.search(r"\.maxntid ([\d, ]+)", directives)
        dynamic = re.search(r"// dynamic shared memory: (\d+) bytes", body)
        found[name] = Launch(
            math.prod(int(size) for size in sizes[1].split(",")) if sizes else 1024,
            int(dynamic[1]) if dynamic else 0,
        )
    return found


def kernels(log: str, launched: dict[str, Launch], demangle) -> dict[int, list[Kernel]]:
    """What `ptxas -v` says of each kernel, by architecture, in order of name."""
    found = []
    for part in log.split("Compiling entry function ")[1:]:
        mangled, arch = re.match(r"'(\w+)' for 'sm_(\d+)'", part).groups()
        number = lambda pattern, part=part: int((re.search(pattern, part) or ["", "0"])[1])  # noqa: E731
        found.append((mangled, int(arch), number(r"Used (\d+) registers"),
                      number(r"(\d+) bytes smem"), number(r"(\d+) bytes spill stores")))  # fmt: skip
    by_arch: dict[int, list[Kernel]] = {arch: [] for arch in sorted({f[1] for f in found})}
    names = demangle([f[0] for f in found])
    for name, (mangled, arch, *rest) in zip(names, found, strict=True):
        by_arch[arch].append(Kernel(readable(name), launched[mangled], *rest))
    for column in by_arch.values():
        column.sort(
            key=lambda k: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", k.name)]
        )
    return by_arch


def demangle(names: list[str]) -> list[str]:
    text = "\n".join(names)
    return run(["c++filt"], input=text).stdout.splitlines() if names else []


def run(command: list[object], **options) -> subprocess.CompletedProcess:
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def configure(archs: list[int], folder: Path) -> dict[Path, list[str]]:
    """How CMake compiles each .cu file in `folder`, with warnings as errors and what ptxas says."""
    if shutil.which("ninja") is None:
        sys.exit("ninja is not on the PATH: pip install ninja")
    run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Release",
         "-DFUSEDLM_CUDA=ON", "-DFUSEDLM_ISAS=scalar", "-DFUSEDLM_WERROR=ON",
         "-DCMAKE_CUDA_FLAGS=-Xptxas=-v", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
         f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(map(str, archs))}"])  # fmt: skip
    entries = json.loads((folder / "compile_commands.json").read_text())
    commands = {Path(e["file"]): shlex.split(e["command"]) for e in entries}
    return {file: commands[file] for file in sorted(commands) if file.suffix == ".cu"}


def launches_of(command: list[str], folder: Path) -> dict[str, Launch]:
    """Compiles once more, as far as PTX: the comments that launches are read in are in no build."""
    start, source = command[: command.index("-c")], Path(command[command.index("-c") + 1])
    start = [part for part in start if "generate-code" not in part and not part.startswith("-M")]
    ptx = folder / f"{source.stem}.ptx"
    run([*start, "-DFUSEDLM_SHOW_SHARED", "-arch=compute_80", "-ptx", source, "-o", ptx],
        cwd=folder)  # fmt: skip
    return launches(ptx.read_text())


def build(folder: Path, targets: list[str]) -> str:
    """Its output; steps are shown as they end."""
    command = ["cmake", "--build", folder, "--target", *targets]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("["):
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        sys.exit("".join(lines))
    return "".join(lines)


def logs(output: str) -> dict[str, str]:
    """What was said of each .cu file, by its stem, in the output of a build with Ninja."""
    parts = re.split(r"^\[\d+/\d+\] (.*)$", output, flags=re.MULTILINE)[1:]
    found = {}
    for step, said in zip(parts[::2], parts[1::2], strict=True):
        if built := re.search(r"Building CUDA object .*/(\w+)\.cu\.o$", step):
            found[built[1]] = said
    return found


def table(by_arch: dict[int, list[Kernel]]) -> list[str]:
    gpus = [GPUS[arch] for arch in by_arch]
    head = ["kernel", "threads", "static shared", "dynamic shared"]
    for arch, gpu in zip(by_arch, gpus, strict=True):
        head += [f"registers sm_{arch}", f"occupancy {gpu.name}"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for row in zip(*by_arch.values(), strict=True):
        first = row[0]
        cells = [f"`{first.name}`", first.launch.threads, first.shared, first.launch.dynamic]
        for k, gpu in zip(row, gpus, strict=True):
            spilled = f" + {k.spilled} B spilled" if k.spilled else ""
            cells += [f"{k.registers}{spilled}", f"{100 * occupancy(k, gpu):.0f} %"]
        lines.append(cells)
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def complaints(found: dict[str, dict[int, list[Kernel]]], excuses: list[Excuse]) -> list[str]:
    """Spills beyond the excuses, and what excuses grant and nothing needs, of the files in `found`."""
    most: dict[tuple[str, int], int] = {}
    wrong = []
    for stem, by_arch in found.items():
        for arch, column in by_arch.items():
            for k in column:
                name = f"{stem}: {k.name}"
                known = [e for e in excuses if name.startswith(e.kernel) and arch in e.bytes]
                for e in known:
                    most[e.kernel, arch] = max(most.get((e.kernel, arch), 0), k.spilled)
                granted = max((e.bytes[arch] for e in known), default=0)
                if k.spilled > granted:
                    more = f", of which {granted} are excused" if granted else ""
                    wrong.append(f"{name} spills {k.spilled} bytes on sm_{arch}{more}")
    for e in excuses:
        stem = e.kernel.split(":")[0]
        for arch in found.get(stem, ()):
            need = most.get((e.kernel, arch), 0)
            if need < e.bytes.get(arch, 0):
                wrong.append(
                    f"{e.kernel} is excused {e.bytes[arch]} bytes on sm_{arch}, needs {need}"
                )
    return wrong


INTRODUCTION = """# CUDA kernels as compiled

Written by `tools/cuda_report.py` with {version}. One line for each instance of a kernel: threads of a
block (its launch bounds), bytes of shared memory that it declares and that its launch asks for,
registers of a thread and bytes that did not fit into them, and the share of a multiprocessor's warps
that registers, shared memory and block size allow. `row<V, threads, kept>` is how rows are read: V
elements an access, so many threads a row, so many elements kept in registers of each.

{spills}
"""


def excuses_as_text(excuses: list[Excuse], archs: list[int]) -> str:
    lines = ["Spills, all of them meant; no other kernel has any:", ""]
    lines += ["| kernel | " + " | ".join(f"sm_{arch}" for arch in archs) + " | why |",
              "| --- |" + " --: |" * len(archs) + " --- |"]  # fmt: skip
    for e in excuses:
        cells = [f"`{e.kernel}`", *(e.bytes.get(arch, 0) for arch in archs), e.reason]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(GPUS), choices=GPUS)
    parser.add_argument("--only", nargs="+", default=[], help="files without their .cu")
    parser.add_argument(
        "--build", type=Path, help="a new folder for CMake; by default it is not kept"
    )
    parser.add_argument("--output", type=Path, help="a Markdown file; by default the screen")
    options = parser.parse_args()
    archs = sorted(options.arch)
    version = re.search(r"release [\d.]+", run(["nvcc", "--version"]).stdout)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = options.build or Path(temporary)
        commands = configure(archs, folder)
        commands = {f: c for f, c in commands.items() if not options.only or f.stem in options.only}
        objects = [command[command.index("-o") + 1] for command in commands.values()]
        built = logs(build(folder, objects))
        if missing := [file.name for file in commands if file.stem not in built]:
            sys.exit(f"{folder} has {missing[0]} compiled already, expected a new folder")
        launched = pool.map(lambda command: launches_of(command, folder), commands.values())
        found = {
            file.stem: kernels(built[file.stem], of_file, demangle)
            for file, of_file in zip(commands, launched, strict=True)
        }
    spills = excuses_as_text(EXCUSES, archs)
    text = [INTRODUCTION.format(version=f"nvcc {version[0]}" if version else "nvcc", spills=spills)]
    for stem, by_arch in found.items():
        text += [f"## {stem}", "", *table(by_arch), ""] if by_arch else []
    if options.output:
        options.output.write_text("\n".join(text))
    else:
        print("\n".join(text))
    wrong = complaints(found, EXCUSES)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
