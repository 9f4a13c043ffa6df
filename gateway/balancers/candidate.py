"""What a balancer sees of a worker."""

from __future__ import annotations

from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A worker that serves the model version and has room."""

    @property
    def name(self) -> str: ...

    @property
    def expected_wait(self) -> float:
        """Seconds until an image sent now would be executed: queue depth x measured service time."""


C = TypeVar("C", bound=Candidate)
