"""What property tests of attention draw alike."""

from __future__ import annotations

import torch

from tests.support.drawn import Drawing


def scores(a: Drawing, H: int) -> dict:
    """Options that say how the scores of H heads are made."""
    options: dict = {"causal": a.flag()}
    if a.flag():
        options["window"] = a.one_of([1, 3, 17, 1000])
    if a.flag():
        options["scale"] = a.one_of([0.3, -0.2, 0.0])
    if a.flag():
        options["softcap"] = a.one_of([1.0, 20.0])
    if a.flag():
        options["alibi_slopes"] = a.normal(H, dtype=torch.float32, scale=0.2)
    return options
