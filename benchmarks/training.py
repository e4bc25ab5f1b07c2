"""A whole training step (forward, backward, clipping, AdamW) next to torch eager and torch.compile.

python -m benchmarks.training [small large gpt2] [--no-compile] [--seconds 20] [--device cuda]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import fusedlm
from benchmarks.timing import add_device_option, alternate, check_device, roof
from benchmarks.torch_gpt import TorchGPT
from fusedlm.models import Decoder, ModelConfig
from fusedlm.optim import AdamW


@dataclass(frozen=True)
class Shape:
    """V vocabulary, T context, C width, L layers, H heads, B batch."""

    V: int
    T: int
    C: int
    L: int
    H: int
    B: int

    def flops(self) -> float:
        """Of forward and backward: 6 for each weight of a product and token, and causal attention."""
        products = self.L * 12 * self.C * self.C + self.V * self.C
        attention = self.L * 7 * self.T * self.C  # 4 forward and 10 backward per pair, half masked
        return self.B * self.T * (6.0 * products + attention)

    def __str__(self) -> str:
        return f"V {self.V}, T {self.T}, C {self.C}, L {self.L}, H {self.H}, B {self.B}"


SHAPES = {
    "small": Shape(65, 256, 384, 6, 6, 16),
    "large": Shape(50257, 256, 384, 6, 6, 8),
    "gpt2": Shape(50257, 1024, 768, 12, 12, 1),
}


def ours(s: Shape, dtype: torch.dtype) -> torch.nn.Module:
    config = ModelConfig.gpt2(vocab_size=s.V, context=s.T, layers=s.L, width=s.C, heads=s.H)
    model = Decoder(config, dtype)
    model.grad_dtype = dtype
    return model


def step_of(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    s: Shape,
    clip: Callable[[], None] = lambda: None,
    autocast: torch.dtype | None = None,
) -> Callable[[], None]:
    draw, device = torch.Generator().manual_seed(0), next(model.parameters()).device
    tokens, targets = (
        torch.randint(s.V, (s.B, s.T), generator=draw, device="cpu").to(device) for _ in range(2)
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            loss = model(tokens, targets)
        loss.backward()
        clip()
        optimizer.step()

    return step


def candidates(
    s: Shape, dtype: torch.dtype, names: Sequence[str] = ("ours", "eager", "compile")
) -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {}
    for name in names:
        if name in ("ours", "recompute"):
            model = ours(s, dtype)
            model.recompute = name == "recompute"
            found[name] = step_of(model, AdamW(model.parameters(), max_grad_norm=1.0), s)
            continue
        torch.manual_seed(0)
        peer = TorchGPT(s.V, s.T, s.L, s.C, s.H)
        parameters = list(peer.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
        found[name] = step_of(
            torch.compile(peer) if name == "compile" else peer,
            optimizer,
            s,
            lambda p=parameters: torch.nn.utils.clip_grad_norm_(p, 1.0),
            dtype if dtype != torch.float32 else None,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)}; all by default")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape and dtype")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="both by default")
    add_device_option(parser)
    given = parser.parse_args()
    check_device(parser, given.device)
    print(f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in given.shapes or SHAPES:
        s = SHAPES[name]
        for dtype in (torch.bfloat16, torch.float32):
            if given.dtype and given.dtype not in str(dtype):
                continue
            names = ("ours", "eager") if given.no_compile else ("ours", "eager", "compile")
            with torch.device(given.device):
                found = candidates(s, dtype, names)
            times = alternate(found, given.seconds, given.device)
            best = times["ours"].best
            peak = roof(dtype == torch.bfloat16, device=given.device)
            print(
                f"\n{name} ({s}), {str(dtype)[6:]}: {s.B * s.T / best:,.0f} tokens/s,"
                f" {s.flops() / best / peak:.0%} of the roof of {peak / 1e9:.0f} GFLOP/s"
            )
            for peer, t in times.items():
                print(
                    f"  {peer:8} best {t.best * 1e3:8.1f} ms, median {t.median * 1e3:8.1f} ms:"
                    f" ours is {t.best / best:.2f}x and {t.median / times['ours'].median:.2f}x as fast"
                )


if __name__ == "__main__":
    main()
