"""Reads what users write about a shipped model: its parameters when it is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["Parameters", "count", "seconds"]

T = TypeVar("T")


class Parameters:
    """The parameters of one model: take each that there is, then ``check``, which names all that are wrong."""

    def __init__(self, model: str, given: Mapping[str, str]) -> None:
        self._model = model
        self._given = dict(given)
        self._problems: list[str] = []
        self._known: list[str] = []

    def take(self, name: str, read: Callable[[str], T], default: T) -> T:
        """The parameter's value, or the default where it is absent or ``read`` raises ``ValueError``."""
        self._known.append(name)
        if (text := self._given.pop(name, None)) is None:
            return default
        try:
            return read(text)
        except ValueError as error:
            self._problems.append(f"{name}={text!r}: {error}")
            return default

    def check(self) -> None:
        """Raises ``ValueError`` that lists every bad value and every parameter that nothing has taken."""
        known = ", ".join(self._known)
        problems = [*self._problems, *(f"{name}: unknown, there are {known}" for name in self._given)]
        if problems:
            raise ValueError(f"bad parameters of {self._model}: {'; '.join(problems)}")


def count(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number from ``low`` to ``high``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def seconds(text: str) -> float:
    """Reads a length of time: a finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("must be a number of seconds, 0 or more")
    return value
