#!/usr/bin/env python3
"""The least time of each CUDA kernel, training and generating: what a first run on a GPU is compared with.

    tools/cuda_planner.py [--output docs/cuda_roofline.md]

Bytes are the least that must be read and written once inputs no longer fit a cache between kernels,
FLOPs those of the algorithm (causal attention: half of the square); the time is the larger of both
over the peaks of the data sheets (Williams et al. 2009).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Bytes of an activation, weight or gradient (bfloat16 or float16), and of a moment (float32).
HALF, FULL = 2, 4


@dataclass(frozen=True)
class Gpu:
    name: str
    tensor: float  # FLOP/s of dense bfloat16 products
    vector: float  # FLOP/s of float32 outside of tensor cores
    memory: float  # bytes/s


A100 = Gpu("A100 SXM 80 GB", 312e12, 19.5e12, 2.0e12)
H100 = Gpu("H100 SXM", 989e12, 67e12, 3.35e12)
GPUS = (A100, H100)


@dataclass(frozen=True)
class Work:
    name: str
    calls: int
    bytes: float
    flops: float
    product: bool = False  # on tensor cores

    def seconds(self, gpu: Gpu) -> float:
        return max(self.bytes / gpu.memory, self.flops / self.peak(gpu))

    def peak(self, gpu: Gpu) -> float:
        return gpu.tensor if self.product else gpu.vector

    def bound(self, gpu: Gpu) -> str:
        return "memory" if self.bytes / gpu.memory > self.flops / self.peak(gpu) else "arithmetic"


@dataclass(frozen=True)
class Model:
    name: str
    B: int
    T: int
    C: int
    H: int
    G: int
    D: int
    F: int
    V: int
    L: int
    gated: bool
    positions: bool  # learned, else rope
    tied: bool

    @property
    def N(self) -> int:
        return self.B * self.T

    @property
    def qkv(self) -> int:
        return (self.H + 2 * self.G) * self.D

    @property
    def parameters(self) -> int:
        products = self.C * (self.qkv + self.H * self.D + (3 if self.gated else 2) * self.F)
        tables = self.V * (1 if self.tied else 2) + (self.T if self.positions else 0)
        return self.L * products + tables * self.C


# The shapes of the training benchmark, on a batch that fills a GPU; and a layer of today's size.
GPT2 = Model("GPT-2 small, 8 sequences of 1024", 8, 1024, 768, 12, 12, 64, 3072, 50257, 12,
             gated=False, positions=True, tied=True)  # fmt: skip
LLAMA = Model("Llama 3 8B, one sequence of 8192", 1, 8192, 4096, 32, 8, 128, 14336, 128256, 32,
              gated=True, positions=False, tied=False)  # fmt: skip

SEQUENCES = 32  # that generate together


def linear(name: str, calls: int, N: int, K: int, O: int, residual: bool) -> Iterator[Work]:  # noqa: E741
    x, w, y = HALF * N * K, HALF * K * O, HALF * N * O
    yield Work(f"{name}, forward", calls, x + w + y * (2 if residual else 1), 2 * N * K * O, True)
    yield Work(f"{name}, backward", calls, y + 2 * x + 2 * w, 4 * N * K * O, True)


def step(m: Model) -> Iterator[Work]:
    """A training step, kernel by kernel."""
    rows = HALF * m.N * m.C  # an activation [N, C]
    extra = rows if m.positions else 0
    yield Work("embedding, forward", 1, 2 * rows + extra, m.N * m.C)
    yield Work("embedding, backward", 1, rows + HALF * m.V * m.C, m.N * m.C)
    norm = "layer_norm" if m.positions else "rms_norm"
    norms = 2 * m.L + 1
    yield Work(f"{norm} with residual, forward", norms, 4 * rows, 8 * m.N * m.C)
    yield Work(f"{norm} with residual, backward", norms, 4 * rows, 14 * m.N * m.C)
    yield from linear("qkv", m.L, m.N, m.C, m.qkv, False)
    if not m.positions:
        turned = HALF * m.N * (m.H + m.G) * m.D
        yield Work("rope, forward or backward", 2 * m.L, 2 * turned, 3 * turned / HALF)
    queries, keys = HALF * m.N * m.H * m.D, HALF * m.N * m.G * m.D
    scores = m.B * m.H * m.T * m.T / 2 * m.D  # causal
    yield Work("attention, forward", m.L, 2 * (queries + keys), 4 * scores, True)
    yield Work("attention, backward", m.L, 4 * (queries + keys), 10 * scores, True)
    yield from linear("projection", m.L, m.N, m.H * m.D, m.C, True)
    up, hidden = (2 if m.gated else 1), HALF * m.N * m.F
    weights = HALF * (up + 1) * m.C * m.F
    flops = 2 * (up + 1) * m.N * m.C * m.F
    # Preactivations are written, then read as an operand of the down product.
    yield Work("ffn, forward", m.L, 3 * rows + weights + 2 * up * hidden, flops, True)
    # They are read again, and their gradients are written, then read by two products.
    yield Work("ffn, backward", m.L, 3 * rows + 2 * weights + 3 * up * hidden, 2 * flops, True)
    head = HALF * m.V * m.C
    yield Work("linear_cross_entropy with gradients", 1, 2 * (rows + head), 6 * m.N * m.C * m.V,
               True)  # fmt: skip
    count = m.parameters
    yield Work("grad_norm", 1, HALF * count, 2 * count)
    yield Work("adamw_step", 1, (3 * HALF + 4 * FULL) * count, 16 * count)


def token(m: Model, B: int, S: int) -> Iterator[Work]:
    """One more token of each of B sequences with S keys."""

    def forward(name: str, calls: int, K: int, O: int, residual: bool) -> Work:  # noqa: E741
        return next(linear(name, calls, B, K, O, residual))

    yield forward("qkv", m.L, m.C, m.qkv, False)
    # In pages or not: 4 bytes of table for each of them are nothing.
    cache, queries = 2 * HALF * B * S * m.G * m.D, 2 * HALF * B * m.H * m.D
    yield Work("attention of one query", m.L, cache + queries, 4 * B * S * m.H * m.D, True)
    yield forward("projection", m.L, m.H * m.D, m.C, True)
    yield forward("ffn, up and gate", m.L, m.C, (2 if m.gated else 1) * m.F, False)
    yield forward("ffn, down", m.L, m.F, m.C, True)
    yield forward("logits", 1, m.C, m.V, False)
    # The best logit, three passes of a histogram for top-k and for top-p, the draw: a row is read from
    # memory once, then from L2.
    yield Work("sample", 1, HALF * B * m.V, 9 * 12 * B * m.V)


def others() -> Iterator[Work]:
    """Ops that no step of these models has, at a shape that theirs is compared with."""
    logits = GPT2.N * GPT2.V  # of a head that does not fuse its product with the loss
    # A row is read once: what the forward keeps of it is one number.
    yield Work("cross_entropy of GPT-2's logits, forward", 1, HALF * logits, 4 * logits)
    yield Work("cross_entropy of GPT-2's logits, backward", 1, 2 * HALF * logits, 5 * logits)
    # The first layers of Stable Diffusion's U-Net: 8 images, 320 channels of 64 x 64 in 32 groups.
    image = 8 * 320 * 64 * 64
    yield Work("group_norm [8, 320, 4096], forward", 1, 2 * HALF * image, 8 * image)
    yield Work("group_norm [8, 320, 4096], backward", 1, 3 * HALF * image, 14 * image)


def quantity(x: float, unit: str) -> str:
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= scale:
            return f"{x / scale:.3g} {prefix}{unit}"
    return f"{x:.3g} {unit}"


def table(works: list[Work]) -> list[list[str]]:
    head = ["kernel", "calls", "bytes", "FLOP", "FLOP a byte"]
    for gpu in GPUS:
        head += [f"{gpu.name}, us a call", "bound by"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for w in works:
        cells = [w.name, str(w.calls), quantity(w.bytes, "B"), quantity(w.flops, "FLOP")]
        cells.append(f"{w.flops / w.bytes:.3g}")
        for gpu in GPUS:
            cells += [f"{1e6 * w.seconds(gpu):.1f}", w.bound(gpu)]
        lines.append(cells)
    return lines


def total(works: list[Work], tokens: int, name: str) -> list[str]:
    sums = [quantity(sum(getattr(w, key) * w.calls for w in works), unit)
             for key, unit in (("bytes", "B"), ("flops", "FLOP"))]  # fmt: skip
    cells = [f"**{name}**", "", *sums, ""]
    for gpu in GPUS:
        seconds = sum(w.calls * w.seconds(gpu) for w in works)
        cells += [f"**{1e3 * seconds:.1f} ms**", f"{quantity(tokens / seconds, 'tokens')}/s"]
    return cells


def markdown(lines: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in lines]


INTRODUCTION = """# What a GPU could do at best

Written by `tools/cuda_planner.py`: the least time of each kernel of a training step in bfloat16
(moments float32) and, norms and the like left out, of generating a token, from its bytes and FLOPs and
the peaks of the data sheets. Nothing here is measured. The first run on a GPU is to be compared with it.
No kernel reaches its bound, and a launch takes a few microseconds whatever it does. Attention's backward is
counted with the five products that it needs; its two kernels do seven, since both compute scores and
slopes, so the least that these two can take is 1.4 times its line.

| | bfloat16 products | float32 | memory |
| --- | --: | --: | --: |
"""


def document() -> str:
    lines = [INTRODUCTION.rstrip("\n")]
    for gpu in GPUS:
        lines.append(
            f"| {gpu.name} | {gpu.tensor / 1e12:.0f} TFLOP/s | {gpu.vector / 1e12:.3g} TFLOP/s |"
            f" {gpu.memory / 1e12:.3g} TB/s |"
        )
    for m in (GPT2, LLAMA):
        title = f"## {m.name} ({quantity(m.parameters, 'parameters')})"
        works = list(step(m))
        lines += ["", title, "", *markdown([*table(works), total(works, m.N, "step")])]
        title = f"The next token of {SEQUENCES} sequences with {m.T} keys each:"
        works = list(token(m, SEQUENCES, m.T))
        lines += ["", title, "", *markdown([*table(works), total(works, SEQUENCES, "token")])]
    lines += ["", "## Ops outside of these models", "", *markdown(table(list(others())))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a Markdown file; by default the screen")
    options = parser.parse_args()
    if options.output:
        options.output.write_text(document())
    else:
        print(document(), end="")
