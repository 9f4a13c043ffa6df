"""How the gateway chooses among workers: one small file for each balancer, one interface for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from gateway.balancers.least_expected_wait import LeastExpectedWait
from gateway.balancers.round_robin import RoundRobin

__all__ = ["BALANCERS", "Balancer", "Candidate"]


class Candidate(Protocol):
    """A worker that serves the model version and has room."""

    @property
    def name(self) -> str: ...

    @property
    def expected_wait(self) -> float:
        """Seconds until an image sent now would be executed: queue depth x measured service time."""


C = TypeVar("C", bound=Candidate)


class Balancer(Protocol):
    """Chooses one of the candidates, of which there is at least one, in a stable order."""

    def choose(self, candidates: Sequence[C]) -> C: ...


BALANCERS: dict[str, type[Balancer]] = {
    "least_expected_wait": LeastExpectedWait,
    "round_robin": RoundRobin,
}
