"""How the gateway chooses among workers: one small file for each balancer, one interface for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.balancers.by_content import by_content
from gateway.balancers.candidate import C, Candidate
from gateway.balancers.least_expected_wait import LeastExpectedWait
from gateway.balancers.round_robin import RoundRobin

__all__ = ["BALANCERS", "Balancer", "Candidate", "by_content"]


class Balancer(Protocol):
    """Chooses one of the candidates, of which there is at least one, in a stable order.

    ``few`` random ones are enough for it in a large fleet; 0 if it needs them all.
    """

    few: int

    def choose(self, candidates: Sequence[C]) -> C: ...


BALANCERS: dict[str, type[Balancer]] = {
    "least_expected_wait": LeastExpectedWait,
    "round_robin": RoundRobin,
}
