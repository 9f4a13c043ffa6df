"""What the queue hands out: jobs submitted, refused, claimed, and the load of a model version."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.wire import Job, Priority


@dataclass(frozen=True)
class Claimed:
    """A job in the hands of a model process. ``attempt`` counts its claims, from 1."""

    entry: bytes
    stream: str
    size: int
    attempt: int
    job: Job

    @property
    def suspect(self) -> bool:
        return self.stream.endswith(":suspects")


@dataclass(frozen=True)
class Submitted:
    """A job in the queue, which has ``depth`` jobs now. ``entry`` serves to cancel it."""

    entry: bytes
    depth: int
    size: int
    priority: Priority


@dataclass(frozen=True)
class Refused:
    """A job that was not accepted: ``full`` (the queue, with ``depth`` jobs), ``spent`` (its ticket), or
    ``quarantined`` (its image)."""

    reason: str
    depth: int


@dataclass(frozen=True)
class Observed:
    """The load of a model version: jobs, those of them that are bulk, and what one gateway may send.

    ``slots`` and ``bulk_slots`` are its share of the free places; ``arrived`` counts the uses of its tickets that
    have come since Redis began.
    """

    depth: int
    bulk_depth: int
    slots: int
    bulk_slots: int
    arrived: int
