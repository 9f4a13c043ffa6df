"""What the fronts of a node have answered so far, counted in each front and added up by the supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.wire import Served


class Tally:
    """The count of one front, by model version."""

    def __init__(self) -> None:
        self.served: dict[str, Served] = {}

    def __repr__(self) -> str:
        return f"<Tally {sum(served.answers for served in self.served.values())} answers>"

    def answered(self, key: str, *, seconds: float) -> None:
        self._add(key, Served(1, seconds))

    def uploaded(self, key: str, size: int) -> None:
        """The body of a request that came past every gateway, whatever its answer is."""
        self._add(key, Served(direct_bytes=size))

    def _add(self, key: str, served: Served) -> None:
        self.served[key] = self.served.get(key, Served()) + served

    def document(self) -> Any:
        """For the supervisor, as JSON-ready data."""
        return msgspec.to_builtins(self.served)


class Tallies:
    """The counts of all fronts of a node, those that have ended included."""

    def __init__(self) -> None:
        self._ended: dict[str, Served] = {}
        self._running: dict[int, dict[str, Served]] = {}

    def __repr__(self) -> str:
        return f"<Tallies of {len(self._running)} fronts: {sum(s.answers for s in self.total().values())} answers>"

    def heard(self, number: int, document: Mapping[str, Any]) -> None:
        """The cumulative count of a front that runs."""
        self._running[number] = msgspec.convert(document, dict[str, Served])

    def ended(self, number: int) -> None:
        """A front has ended; another one of that number begins at nothing."""
        self._ended = _sum(self._ended, self._running.pop(number, {}))

    def total(self) -> dict[str, Served]:
        total = self._ended
        for counts in self._running.values():
            total = _sum(total, counts)
        return total


def _sum(one: Mapping[str, Served], other: Mapping[str, Served]) -> dict[str, Served]:
    return {key: one.get(key, Served()) + other.get(key, Served()) for key in {**one, **other}}
