"""How tokens are drawn: settings that check themselves. The draw itself is the engine's.

The order is that of Hugging Face transformers: repetition penalty, temperature, top-k, top-p,
min-p, draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fusedlm.models.fields import is_number


@dataclass(frozen=True)
class Sampling:
    """How to choose a token. temperature 0 is greedy; None switches a filter off.

    top_k: keep the k most likely tokens (Fan et al. 2018). top_p: keep the smallest set of most
    likely tokens whose probabilities add up to p (Holtzman et al. 2020). min_p: keep tokens at
    least min_p times as likely as the best. repetition_penalty: divide positive and multiply
    negative logits of tokens already in the row (Keskar et al. 2019). Raises ValueError by name.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check(self.temperature, "temperature", "a number of at least 0", lambda v: v >= 0)
        # Beyond, a logit of float32 may become infinite.
        _check(
            self.repetition_penalty, "repetition_penalty", "a number above 0, from 1e-6 to 1e6",
            lambda v: 1e-6 <= v <= 1e6,
        )  # fmt: skip
        if self.top_k is not None:
            check_integer("top_k", self.top_k, 1)
        if self.top_p is not None:
            _check(self.top_p, "top_p", "a number in (0, 1]", lambda v: 0 < v <= 1)
        if self.min_p is not None:
            _check(self.min_p, "min_p", "a number in [0, 1]", lambda v: 0 <= v <= 1)

    def fields(self) -> dict[str, Any]:
        """As the engine's requests take them."""
        return {
            "temperature": float(self.temperature),
            "top_k": min(self.top_k or 0, 2**31 - 1),  # more than any vocabulary has
            "top_p": 1.0 if self.top_p is None else float(self.top_p),
            "min_p": float(self.min_p or 0.0),
            "repetition_penalty": float(self.repetition_penalty),
        }


def row_seeds(seed: int | None, rows: int) -> list[int]:
    """seed + row for each row, so that a row does not depend on its neighbours.

    Without a seed, one is drawn from torch's own generator, which torch.manual_seed sets.
    """
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    elif type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"generate: seed is {seed!r}, expected an integer in [0, 2**63)")
    return [seed + row for row in range(rows)]


def check_integer(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"generate: {name} is {value!r}, expected an integer of at least {least}")


def _check(value: object, name: str, expected: str, fits: Callable[[float], bool]) -> None:
    if not (is_number(value) and fits(value)):
        raise ValueError(f"generate: {name} is {value!r}, expected {expected}")
