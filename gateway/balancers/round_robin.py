"""Send requests to the workers in turn, whatever their load."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.balancers.candidate import C


class RoundRobin:
    """For fleets of equal machines, and to compare the other balancers with."""

    few = 0

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[C]) -> C:
        self._turn += 1
        return candidates[self._turn % len(candidates)]
