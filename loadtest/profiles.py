"""How much load there is at each moment: users in a closed loop, arrivals per second in an open one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

_ROUNDING = 1e-9  # 50 arrivals at 0.02 s are 50, not 51 by the last bit of a float


@dataclass(frozen=True)
class Stretch:
    """``seconds`` in which the level goes in a straight line from ``first`` to ``last``."""

    seconds: float
    first: float
    last: float

    @property
    def slope(self) -> float:
        return (self.last - self.first) / self.seconds

    def level(self, time: float) -> float:
        return self.first + self.slope * time if self.first != self.last else self.first

    def area(self, time: float) -> float:
        """The arrivals in the first ``time`` seconds."""
        if self.first == self.last:
            return self.first * time
        return self.first * time + self.slope * time * time / 2

    def time_of(self, area: float) -> float:
        """When there have been so many arrivals."""
        if area <= 0:
            return 0.0
        if self.first == self.last:
            return area / self.first
        root = math.sqrt(max(0.0, self.first * self.first + 2 * self.slope * area))
        return 2 * area / (self.first + root)


@dataclass(frozen=True)
class Profile:
    """The level over time; 0 after the last stretch. Only the last stretch may have no end."""

    stretches: tuple[Stretch, ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> Self:
        """From rows of seconds, first and last level; the inverse of ``rows``. Empty stretches are left out."""
        return cls(tuple(Stretch(*row) for row in rows if row[0] > 0))

    @property
    def rows(self) -> list[list[float]]:
        return [[part.seconds, part.first, part.last] for part in self.stretches]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.stretches)

    @property
    def peak(self) -> float:
        return max((max(part.first, part.last) for part in self.stretches), default=0.0)

    def level(self, time: float) -> float:
        for start, _, part in self._placed():
            if time < start + part.seconds:
                return part.level(time - start)
        return 0.0

    def arrivals(self, until: float = math.inf) -> float:
        """How many arrivals are due before ``until``: a whole number, or infinity."""
        area = sum(part.area(min(part.seconds, until - start)) for start, _, part in self._placed() if until > start)
        return math.ceil(area - _ROUNDING) if math.isfinite(area) else math.inf

    def due(self, number: int) -> float | None:
        """When arrival ``number`` (from 0) is due, in seconds from the start; None when there is none."""
        for start, before, part in self._placed():
            if number < before + part.area(part.seconds) - _ROUNDING:
                return start + part.time_of(number - before)
        return None

    def _placed(self) -> Iterator[tuple[float, float, Stretch]]:
        """Each stretch with its start and the arrivals before it."""
        start = before = 0.0
        for part in self.stretches:
            yield start, before, part
            start, before = start + part.seconds, before + part.area(part.seconds)


def constant(level: float, seconds: float = math.inf) -> Profile:
    return Profile.of([[seconds, level, level]])


def ramp(peak: float, seconds: float, base: float) -> Profile:
    """In a straight line from ``base`` to ``peak``."""
    return Profile.of([[seconds, base, peak]])


def steps(peak: float, seconds: float, count: int) -> Profile:
    """``count`` equal stairs up to ``peak``."""
    return Profile.of([[seconds / count, peak * step / count, peak * step / count] for step in range(1, count + 1)])


def spike(peak: float, seconds: float, base: float, at: float, length: float) -> Profile:
    """``base`` all the time, but ``peak`` for ``length`` seconds from second ``at``."""
    at = min(at, seconds)
    length = min(length, seconds - at)
    return Profile.of([[at, base, base], [length, peak, peak], [seconds - at - length, base, base]])


def soak(peak: float, seconds: float, rise: float) -> Profile:
    """Up to ``peak`` in ``rise`` seconds, and there for the rest."""
    rise = min(rise, seconds)
    return Profile.of([[rise, 0, peak], [seconds - rise, peak, peak]])


def origin(count: int, interval: float) -> Profile:
    """The origin's stress test: ``count`` requests, one every ``interval`` seconds."""
    return constant(1 / interval, count * interval)
