"""Timing in pairs: candidates run in turn, so that a drift of the machine's speed hits all alike."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import fusedlm
from fusedlm import _core


@dataclass(frozen=True)
class Times:
    """Seconds of one candidate over all rounds."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def check_device(parser: argparse.ArgumentParser, device: str) -> None:
    """Ends the program where `device` is not to be had."""
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    if device == "cuda" and not fusedlm.cuda_compiled():
        parser.error(
            "--device cuda: this build has no CUDA kernels;"
            " build with: pip install . -C cmake.define.FUSEDLM_CUDA=ON"
        )


def alternate(
    candidates: dict[str, Callable[[], object]], budget: float = 2.0, device: str = "cpu"
) -> dict[str, Times]:
    """Times every candidate in turn until `budget` seconds are spent, five rounds at least.

    On a GPU a round ends when the GPU has done it.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for run in candidates.values():  # the first call compiles, allocates and warms caches
        run()
    wait()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(next(iter(seconds.values()))) < 5:
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def roof(bfloat16: bool, seconds: float = 0.3, device: str = "cpu") -> float:
    """Floating-point operations per second that never leave the registers, measured now.

    On a GPU those of a large product by cuBLAS, without TF32.
    """
    if device == "cpu":
        return _core.roof_measure(bfloat16, seconds)
    n = 8192
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    return 2.0 * n**3 / alternate({"product": lambda: a @ a}, seconds, device)["product"].best


def bandwidth(seconds: float = 0.3) -> float:
    """Bytes per second, read and written, of copies far larger than the caches."""
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    best = alternate({"copy": lambda: target.copy_(source)}, seconds)["copy"].best
    return 2.0 * source.nbytes / best
