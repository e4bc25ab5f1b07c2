"""How far from the truth: grids of cases for each op against float64 and against plain torch.

    python tools/numerics.py [op ...]      writes docs/numerics.md (half a minute on two cores)
    python tools/numerics.py --slice 20    every 20th case, to the terminal only

A case runs once in float64 (plain torch: the truth), once in plain torch in the dtype measured, and once
in fusedlm. An error is the largest distance of an element from the truth, a ratio ours over torch's; where
torch happens to be exact, over half a unit in the last place of the largest value. No ratio may exceed 2
in what an error is above ALLOWANCE of the largest value (the tests allow 1e-5). The grids follow the tests of
flash-attention and Liger-Kernel: heads, lengths, widths and flags.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fusedlm
from fusedlm import functional, ops
from tests.support import reference
from tests.support.compare import outputs_and_gradients, randn
from tests.support.flash import plain as flash_plain

REPORT = Path(__file__).resolve().parent.parent / "docs" / "numerics.md"
DTYPES = (torch.float32, torch.bfloat16)
ALLOWANCE = 2.5e-6  # of the largest value: 21 units in the last place of a float32
LIMIT = 2.0

Call = Callable[[dict[str, Tensor]], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """`inputs` get gradients; both calls take them by name."""

    name: str
    inputs: dict[str, Tensor]
    ours: Call
    plain: Call


@dataclass(frozen=True)
class Errors:
    """Of one tensor; `largest` is the largest value of the truth, `step` half a unit in its last place."""

    ours: float
    torch: float
    largest: float
    step: float

    @property
    def ratio(self) -> float:
        return self.ours / max(self.torch, self.step) if self.ours else 0.0

    @property
    def judged(self) -> float:
        """The ratio of what is above the allowance."""
        above = self.ours - ALLOWANCE * self.largest
        return above / max(self.torch, self.step) if above > 0 else 0.0

    @property
    def beyond(self) -> float:
        """What of our error is more than LIMIT times torch's, as a part of the largest value."""
        return max(0.0, self.ours - LIMIT * max(self.torch, self.step)) / (self.largest or 1.0)


@dataclass
class Worst:
    """The largest errors of an op in a dtype, and the largest ratio with where it comes from."""

    cases: int = 0
    ours: float = 0.0
    torch: float = 0.0
    ratio: float = 0.0
    at: str = ""
    judged: float = 0.0
    beyond: float = 0.0
    over: list[str] = field(default_factory=list)

    def add(self, case: Case, name: str, e: Errors) -> None:
        self.ours, self.torch = max(self.ours, e.ours), max(self.torch, e.torch)
        self.beyond = max(self.beyond, e.beyond)
        self.judged = max(self.judged, e.judged)
        where = f"{name}, {case.name}"
        if e.ratio > self.ratio:
            self.ratio, self.at = e.ratio, where
        if e.judged > LIMIT:
            self.over.append(f"{where}: {e.ratio:.2f}")


def _grid(**values) -> Iterator[dict]:
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def _name(options: dict) -> str:
    shown = (k if v is True else f"{k} {v}" for k, v in options.items() if v not in (None, False))
    return ", ".join(s for s in shown if not s.startswith("_"))


def attention() -> Iterator[Case]:
    flags = (
        {},
        {"causal": True},
        {"window": 40},
        {"causal": True, "window": 40},
        {"softcap": 15.0, "causal": True},
        {"alibi": True, "causal": True},
        {"alibi": True, "softcap": 5.0, "window": 60},
    )
    lengths = ((64, 64), (113, 203), (128, 217), (108, 256), (256, 512), (1, 339), (3, 799))
    heads = ((6, 6), (6, 2), (6, 1))
    for T_S, HG, D, flag in itertools.product(lengths, heads, (32, 40, 64, 128), flags):
        (T, S), (H, G) = T_S, HG
        named = {
            "query": randn(2, T, H, D, seed=0),
            "key": randn(2, S, G, D, seed=1),
            "value": randn(2, S, G, D, seed=2),
        }
        options = {k: v for k, v in flag.items() if k != "alibi"}
        if "alibi" in flag:
            options["alibi_slopes"] = 2.0 ** -torch.arange(1.0, H + 1)
        name = _name({"T": T, "S": S, "heads": f"{H}/{G}", "D": D, **flag})
        yield Case(name, named, *_pair(ops.attention, reference.attention, options))


def _pair(ours: Callable, plain: Callable, options: dict) -> tuple[Call, Call]:
    return lambda t: ours(**t, **options), lambda t: plain(**t, **options)


def flash_attn() -> Iterator[Case]:
    for case in _grid(
        T=(97, 128), S=(128, 203), D=(59, 64), causal=(False, True),
        window_size=((-1, -1), (30, 30), (30, 0), (50, 10), (-1, 20)), softcap=(0.0, 10.0),
    ):  # fmt: skip
        T, S, D = case["T"], case["S"], case["D"]
        named = {"q": randn(1, T, 4, D, seed=0), "k": randn(1, S, 2, D, seed=1)}
        named["v"] = randn(1, S, 2, D, seed=2)
        options = {k: case[k] for k in ("causal", "window_size", "softcap")}
        yield Case(
            _name({**case, "softcap": case["softcap"] or None}),
            named,
            lambda t, o=options: functional.flash_attn_func(t["q"], t["k"], t["v"], **o),
            lambda t, o=options: flash_plain(t["q"], t["k"], t["v"], **o)[0],
        )


def _norm(norm: str) -> Iterator[Case]:
    shapes = ((4, 64), (113, 512), (7, 1000), (64, 768), (256, 2048), (9, 4096), (3, 8200))
    for shape, residual, offset, scale in itertools.product(
        shapes, (False, True), (0.0, 0.5, 20.0), (0.01, 1.0, 30.0)
    ):
        named = {"x": scale * randn(*shape, seed=0) + offset, "weight": randn(shape[1], seed=1)}
        if norm == "layer_norm":
            named["bias"] = randn(shape[1], seed=2)
        if residual:
            named["residual"] = scale * randn(*shape, seed=3)
        name = _name({"shape": list(shape), "residual": residual, "mean": offset, "spread": scale})
        yield Case(name, named, *_pair(getattr(ops, norm), getattr(reference, norm), {}))


def rms_norm() -> Iterator[Case]:
    yield from _norm("rms_norm")


def layer_norm() -> Iterator[Case]:
    yield from _norm("layer_norm")


def group_norm() -> Iterator[Case]:
    shapes = ((4, 64, 1), (64, 768, 1), (2, 64, 77), (8, 320, 256), (1, 8, 4099))
    for shape, groups, offset, scale in itertools.product(
        shapes, (1, 2, 8), (0.0, 0.5, 20.0), (0.01, 1.0, 30.0)
    ):
        named = {"x": scale * randn(*shape, seed=0) + offset}
        named["weight"], named["bias"] = randn(shape[1], seed=1), randn(shape[1], seed=2)
        name = _name({"shape": list(shape), "groups": groups, "mean": offset, "spread": scale})
        yield Case(name, named, *_pair(ops.group_norm, reference.group_norm, {"groups": groups}))


def rope() -> Iterator[Case]:
    for case in _grid(T=(1, 37, 128, 600), D=(32, 64, 128), R=(0.5, 1), interleaved=(False, True)):
        tables = ops.rope_tables(case["T"], int(case["D"] * case["R"]))
        options = {"cos": tables[0], "sin": tables[1], "interleaved": case["interleaved"]}
        named = {"x": randn(2, case["T"], 4, case["D"], seed=0)}
        yield Case(_name(case), named, *_pair(ops.rope, reference.rope, options))


def linear() -> Iterator[Case]:
    for case in _grid(
        N=(1, 33, 256), C=(64, 257, 768), O=(48, 331, 1024), bias=(False, True),
        activation=(None, "relu", "gelu", "gelu_tanh", "silu"),
    ):  # fmt: skip
        N, C, width = case["N"], case["C"], case["O"]
        named = {"x": randn(N, C, seed=0), "weight": randn(width, C, seed=1) * C**-0.5}
        if case["bias"]:
            named["bias"] = randn(width, seed=2)
        yield Case(
            _name(case), named,
            *_pair(ops.linear, reference.linear, {"activation": case["activation"]}),
        )  # fmt: skip


def ffn() -> Iterator[Case]:
    for case in _grid(
        N=(5, 128, 300), C=(64, 200, 512), F=(128, 345, 1376),
        activation=("relu", "gelu", "gelu_tanh", "swiglu", "geglu"), residual=(False, True),
    ):  # fmt: skip
        N, C, F = case["N"], case["C"], case["F"]
        named = {
            "x": randn(N, C, seed=0),
            "up_weight": randn(F, C, seed=1) * C**-0.5,
            "down_weight": randn(C, F, seed=2) * F**-0.5,
        }
        if case["activation"] in ("swiglu", "geglu"):
            named["gate_weight"] = randn(F, C, seed=3) * C**-0.5
        if case["residual"]:
            named["residual"] = randn(N, C, seed=4)
        yield Case(
            _name(case), named, *_pair(ops.ffn, reference.ffn, {"activation": case["activation"]})
        )


LOSS_FLAGS = (
    {},
    {"ignore_index": 2},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-3},
    {"softcap": 30.0},
    {"class_weight": True},
    {"ignore_index": -100, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 30.0},
    {"ignore_index": 2, "label_smoothing": 0.1, "class_weight": True},
)


def _loss_options(flag: dict, V: int, N: int, reduction: str) -> tuple[dict, Tensor]:
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(4))
    options = {**flag, "reduction": reduction}
    targets[::3] = flag.get("ignore_index", int(targets[0]))
    if "class_weight" in flag:
        options["class_weight"] = 0.2 + torch.rand(V, generator=torch.Generator().manual_seed(5))
    return options, targets


def linear_cross_entropy() -> Iterator[Case]:
    sizes = ((8, 64, 128), (94, 200, 423), (128, 256, 4096), (40, 96, 32000))
    for (N, C, V), flag, reduction in itertools.product(sizes, LOSS_FLAGS, ("mean", "sum", "none")):
        options, targets = _loss_options(flag, V, N, reduction)
        named = {"x": randn(N, C, seed=0), "weight": randn(V, C, seed=1) * 2 * C**-0.5}
        name = _name({"N": N, "C": C, "V": V, **flag, "reduction": reduction})
        options = {**options, "targets": targets}
        ours, plain = _pair(ops.linear_cross_entropy, reference.linear_cross_entropy, options)
        yield Case(name, named, ours, lambda t, plain=plain: _float32(plain(t)))


def _float32(loss: Tensor) -> Tensor:
    """The loss of ours is float32 always; torch's is float32 by the reference, or float64."""
    return loss if loss.dtype == torch.float64 else loss.float()


def cross_entropy() -> Iterator[Case]:
    sizes = ((3, 3), (82, 41), (64, 423), (200, 4096), (24, 32000), (6, 128256))
    for (N, V), flag, reduction in itertools.product(sizes, LOSS_FLAGS, ("mean", "sum", "none")):
        if flag.get("ignore_index", 0) >= V:
            continue
        options, targets = _loss_options(flag, V, N, reduction)
        named = {"logits": 3 * randn(N, V, seed=0)}
        yield Case(
            _name({"N": N, "V": V, **flag, "reduction": reduction}),
            named,
            lambda t, o=options, y=targets: _ours_of_logits(t["logits"], y, o),
            lambda t, o=options, y=targets: _plain_of_logits(t["logits"], y, o),
        )


def _ours_of_logits(logits: Tensor, targets: Tensor, options: dict) -> Tensor:
    rest = {k: v for k, v in options.items() if k != "class_weight"}
    return ops.cross_entropy(logits, targets, options.get("class_weight"), **rest)


def _plain_of_logits(logits: Tensor, targets: Tensor, options: dict) -> Tensor:
    """As eager PyTorch computes it: in the dtype of the logits, which log_softmax keeps."""
    loss = reference.cross_entropy(logits, targets, **options)
    return loss.to(logits.dtype)


def embedding() -> Iterator[Case]:
    for case in _grid(N=(1, 77, 512), V=(31, 1000), C=(64, 300), positions=(False, True)):
        N, V, C = case["N"], case["V"], case["C"]
        tokens = torch.randint(V, (2, N), generator=torch.Generator().manual_seed(3))
        named = {"weight": randn(V, C, seed=0)}
        if case["positions"]:
            named["position_weight"] = randn(N, C, seed=1)
        options = {"tokens": tokens}
        yield Case(_name(case), named, *_pair(ops.embedding, reference.embedding, options))


GRIDS = (
    embedding, rms_norm, layer_norm, group_norm, rope, linear, ffn, attention, flash_attn,
    cross_entropy, linear_cross_entropy,
)  # fmt: skip


def errors(case: Case, dtype: torch.dtype) -> dict[str, Errors]:
    """For each result and each gradient."""
    rounded = {name: t.to(dtype) for name, t in case.inputs.items()}
    with torch.no_grad():
        example = case.plain({k: t.double() for k, t in rounded.items()})
    shapes = [t.shape for t in (example if isinstance(example, tuple) else (example,))]
    grads = [randn(*s, seed=9 + i).to(dtype) if s else None for i, s in enumerate(shapes)]
    grads = [torch.ones(()) if g is None else g for g in grads]
    ours = outputs_and_gradients(case.ours, rounded, grads, dtype)
    plain = outputs_and_gradients(case.plain, rounded, grads, dtype)
    exact = outputs_and_gradients(case.plain, rounded, grads, torch.float64)
    found = {}
    for name, truth in exact.items():
        distances = [float((r[name].double() - truth).abs().max()) for r in (ours, plain)]
        largest = float(truth.abs().max())
        found[name] = Errors(*distances, largest, largest * torch.finfo(ours[name].dtype).eps / 2)
    return found


def measure(grids=GRIDS, step: int = 1) -> dict[str, dict[torch.dtype, Worst]]:
    """The worst of each grid in each dtype; `step` takes every so manieth case."""
    results = {}
    for grid in grids:
        results[grid.__name__] = {dtype: Worst() for dtype in DTYPES}
        cases = itertools.islice(grid(), 0, None, step)
        for case in tqdm(cases, desc=grid.__name__, disable=None):
            for dtype, worst in results[grid.__name__].items():
                worst.cases += 1
                for name, found in errors(case, dtype).items():
                    worst.add(case, name, found)
    return results


def table(results) -> str:
    lines = [
        "| op | dtype | cases | max error, ours | torch | worst ratio | judged | beyond 2 | where |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for op, by_dtype in results.items():
        for dtype, w in by_dtype.items():
            lines.append(
                f"| {op} | {str(dtype)[6:]} | {w.cases} | {w.ours:.2g} | {w.torch:.2g} |"
                f" {w.ratio:.2f} | {w.judged:.2f} | {w.beyond:.1g} | {w.at} |"
            )
    return "\n".join(lines)


def _verdict(results) -> str:
    all_worst = [w for by_dtype in results.values() for w in by_dtype.values()]
    over = sum(len(w.over) for w in all_worst)
    cases = sum(w.cases for w in all_worst)
    return (
        "An error may be at most twice torch's and a tiny part of the largest value, here"
        f" {ALLOWANCE:g} ({ALLOWANCE / 2**-23:.0f} units in its last place in float32; the tests allow 1e-5): of"
        f" {cases} cases {over} break that. `judged` is the worst ratio of what is above that part,"
        " `beyond 2` the most that an error exceeds twice torch's by, as a part of the largest value."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = {grid.__name__: grid for grid in GRIDS}
    parser.add_argument("ops", nargs="*", metavar="op", help=f"of {', '.join(names)}")
    parser.add_argument("--slice", type=int, default=1, metavar="N", help="every Nth case")
    given = parser.parse_args()
    if unknown := set(given.ops) - set(names):
        parser.error(f"unknown op {unknown.pop()!r}, known are {', '.join(names)}")
    results = measure([names[n] for n in given.ops] if given.ops else GRIDS, given.slice)
    text = table(results)
    print(text)
    for op, by_dtype in results.items():
        for dtype, worst in by_dtype.items():
            for line in worst.over:
                print(f"over {LIMIT}: {op} {str(dtype)[6:]}: {line}")
    if not given.ops and given.slice == 1:
        REPORT.write_text(
            HEAD.format(
                isa=fusedlm.isa(), version=torch.__version__, table=text, verdict=_verdict(results)
            )
        )
    return any(worst.over for by_dtype in results.values() for worst in by_dtype.values())


HEAD = """# Numerics

Written by `python tools/numerics.py` on {isa}, against torch {version} on the CPU. Each case runs in
float64 (the truth), in plain torch in its dtype, and in fusedlm, forward and backward with random gradients.
Max error is the largest distance of any element of any result or gradient from the truth, over all
cases; the ratio is ours over torch's for one tensor of one case, the worst of all. Where torch happens to be
exact, half a unit in the last place of the largest value stands for its error. {verdict}

Plain torch is what the op replaces, step by step in the dtype (`tests/support/reference.py`), with statistics in
float32 where torch's own functions take them there. The grids follow the tests of flash-attention
(lengths, head widths, grouped heads, causal, windows, softcap, ALiBi) and of Liger-Kernel (shapes,
activations, ignored targets, smoothing, z-loss, softcap, class weights).

{table}
"""


if __name__ == "__main__":
    sys.exit(main())
