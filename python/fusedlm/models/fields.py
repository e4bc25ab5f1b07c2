"""What the configs of models and of training have in common; without torch, so that they load at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NoReturn,
    Self,
    TypeGuard,
    TypeVar,
    overload,
)

if TYPE_CHECKING:
    from dataclasses import Field

T = TypeVar("T")


def is_number(value: Any) -> TypeGuard[float]:
    """A finite one: no bool, and no integer that is beyond every float."""
    try:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    except OverflowError:
        return False


class Filled(Generic[T]):
    """The type of a field that may be given as None and is filled in then: it is never read as None."""

    if TYPE_CHECKING:  # for type checkers alone: the field is an ordinary one

        @overload
        def __get__(self, config: None, kind: type) -> Self: ...
        @overload
        def __get__(self, config: object, kind: type) -> T: ...
        def __get__(self, config: object, kind: type) -> Self | T: ...
        def __set__(self, config: object, value: T | None) -> None: ...


TO_FILL: Any = None  # the default of a field that is `Filled`


class CheckedFields:
    """For frozen dataclasses that check themselves: from and to a dict, and errors that name the field."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

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
        """The fields by name, ready for JSON."""
        return asdict(self)

    def _fill(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def _count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or not least <= value < 2**31:
            self._bad(name, f"an integer from {least} to 2147483647")

    def _number(self, name: str) -> bool:
        return is_number(getattr(self, name))

    def _choice(self, name: str, allowed: Sequence[str | None]) -> None:
        if getattr(self, name) not in allowed:
            self._bad(name, "one of " + ", ".join(map(str, allowed)))

    def _positive(self, name: str) -> None:
        if not self._number(name) or not getattr(self, name) > 0:
            self._bad(name, "a number above 0")

    def _share(self, name: str) -> None:
        if not self._number(name) or not 0 <= getattr(self, name) < 1:
            self._bad(name, "a number in [0, 1)")

    def _names(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        fits = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        if not fits or not value or len(set(value)) < len(value):
            self._bad(name, expected)
        object.__setattr__(self, name, list(value))

    def _bad(self, name: str, expected: str) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}"
        )
