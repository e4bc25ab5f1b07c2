"""What property tests draw: sizes, dtypes, layouts in memory, and cases that hold a call's tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

import fusedlm
from tests.support.dtypes import DTYPES
from tests.support.gpu import HAS_GPU

MODES = [*fusedlm.available_isas(), *(["cuda"] if HAS_GPU else [])]  # the emulator among them
# Single, ragged, whole packs of every instruction set, and past a block of the products.
SIZES = [1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 113]
LAYOUTS = ["dense", "offset", "permuted", "stepped", "shared", "mixed"]
# Stands between the elements of a view; whoever reads it, finds nonsense or is refused.
GAP = {torch.int64: -(10**6), torch.int32: -(10**6), torch.bool: False, torch.uint8: 255}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass
class Case:
    """One call: tensors by name, what arrives at the results, who wants a gradient, and the flags.

    All of it is on the CPU until it is run. `floors` hold for each result by name ("" for all others) the
    size of the terms that it is a sum of, where they may cancel. `dtype` is that of the activations.
    """

    isa: str
    dtype: torch.dtype
    tensors: dict[str, Tensor]
    arriving: list[Tensor] = field(default_factory=list)
    wanted: frozenset[str] = frozenset()
    options: dict = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)

    def _repr_pretty_(self, printer, cycle: bool) -> None:
        """What hypothesis shows of a case that fails."""
        printer.text(repr(self))

    def __repr__(self) -> str:
        lines = [f"{self.isa}, gradients of {sorted(self.wanted)}"]
        named = {**self.tensors, **{f"arriving{i}": g for i, g in enumerate(self.arriving)}}
        for name, value in {**named, **self.options}.items():
            lines.append(f"  {name}: {_described(value)}")
        return "\n".join(lines)


def _described(value) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    place = f"strides {list(value.stride())} offset {value.storage_offset()}"
    few = f" = {value.tolist()}" if not value.is_floating_point() and value.numel() < 20 else ""
    return f"{name_of(value.dtype)} {list(value.shape)} {place}{few}"


class Drawing:
    """hypothesis's `draw` with the questions that every op asks."""

    def __init__(self, draw, isas: list[str] | None = None, dtypes=DTYPES) -> None:
        self._draw = draw
        self.isa = self.one_of(isas or MODES)
        self.dtype = self.one_of(dtypes)
        self.parameter_dtype = self.one_of([self.dtype, torch.float32])

    def one_of(self, choices):
        return self._draw(st.sampled_from(list(choices)))

    def flag(self) -> bool:
        return self._draw(st.booleans())

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def maybe(self, make):
        """None, or what `make` gives."""
        return make() if self.flag() else None

    def size(self, limit: int = 113) -> int:
        return self.one_of([s for s in SIZES if s <= limit])

    def rows(self, limit: int = 113) -> int:
        """A size that may be 0."""
        return self.one_of([*(s for s in SIZES if s <= limit), 0])

    def lead(self, limit: int = 113) -> tuple[int, ...]:
        """All dimensions but the last; 0 rows now and then."""
        return self.one_of([(self.rows(limit),), (self.rows(5), self.rows(17)), (2, 1, 3)])

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.number(0, 2**31))

    def normal(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> Tensor:
        """Normal values in `dtype`, by default that of the activations, in any layout."""
        values = torch.randn(shape, generator=self.generator()) * scale
        return self.laid_out(values.to(dtype or self.dtype))

    def parameter(self, *shape: int, scale: float = 1.0) -> Tensor:
        """As `normal`, in the dtype of the case's parameters: float32 goes with half activations."""
        return self.normal(*shape, dtype=self.parameter_dtype, scale=scale)

    def integers(self, low: int, high: int, *shape: int, dtype=torch.int64) -> Tensor:
        """Of low to high - 1."""
        values = torch.randint(low, high, shape, generator=self.generator(), dtype=dtype)
        return self.laid_out(values)

    def chosen(self, *shape: int, part: float = 0.7) -> Tensor:
        """A boolean tensor, of which about `part` is true."""
        return self.laid_out(torch.rand(shape, generator=self.generator()) < part)

    def some_of(self, names) -> frozenset[str]:
        """Mostly all of them: each is left out in one case of four."""
        return frozenset(n for n in names if self.number(0, 3) != 3)

    def laid_out(self, values: Tensor) -> Tensor:
        """`values` as a view of other strides; in shared dimensions all elements are the first."""
        layout = self.one_of(LAYOUTS) if values.dim() else "dense"
        dims = list(range(values.dim()))
        order, steps, starts, shared = dims, [1] * len(dims), [0] * len(dims), set()
        if layout in ("permuted", "mixed"):
            order = self._draw(st.permutations(dims))
        if layout in ("stepped", "mixed"):
            steps = [self.number(1, 3) for _ in dims]
        if layout in ("offset", "mixed"):
            starts = [self.number(0, 3) for _ in dims]
        if layout == "shared":
            shared = {d for d in dims if self.flag()}
        return _view(values, order, steps, starts, shared)


def _view(values: Tensor, order, steps, starts, shared) -> Tensor:
    """A view with the values, the dimensions in memory in `order`, the outermost first."""
    sizes = [min(1, n) if d in shared else n for d, n in enumerate(values.shape)]
    stored = [start + size * step for size, step, start in zip(sizes, steps, starts, strict=True)]
    gap = GAP.get(values.dtype, float("nan"))
    memory = torch.full([stored[d] for d in order], gap, dtype=values.dtype)
    view = memory.permute([order.index(d) for d in range(values.dim())])
    for d, (start, step) in enumerate(zip(starts, steps, strict=True)):
        view = view[(slice(None),) * d + (slice(start, None, step),)]
    view.copy_(values[tuple(slice(0, n) for n in sizes)])
    return view.expand(values.shape)
