"""What the configs of decoders and encoders have in common; without torch, so that they load at once."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, fields
from typing import Any, Self


class CheckedFields:
    """For frozen dataclasses that check themselves: from and to a dict, and errors that name the field."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown and missing fields are errors."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"{cls.__name__}: unknown field {unknown[0]!r}, known are {sorted(known)}"
            )
        for field in fields(cls):
            if field.default is MISSING and field.name not in values:
                raise ValueError(f"{cls.__name__}: {field.name} is missing")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or not least <= value < 2**31:
            self._bad(name, f"an integer from {least} to 2147483647")

    def _number(self, name: str) -> bool:
        value = getattr(self, name)
        return type(value) in (int, float) and math.isfinite(value)

    def _bad(self, name: str, expected: str) -> None:
        raise ValueError(
            f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}"
        )
