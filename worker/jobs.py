"""What the queue hands out: jobs submitted, refused, claimed, and the load of a model version."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.wire import Job, Priority


@dataclass(frozen=True)
class Sharing:
    """How equal images share an execution (a flight), and its answer afterwards (the cache).

    ``content`` names all that makes an answer what it is; equal names have equal answers. Who wants no other's
    answer has a ``flight`` of its own name. The answer is kept for ``lifetime_ms`` among at most ``most_bytes``.
    """

    content: str
    flight: str
    lifetime_ms: int
    most_bytes: int

    @property
    def reads(self) -> bool:
        return self.flight == self.content


@dataclass(frozen=True)
class Offer:
    """One image as it comes to the queue. ``id`` is its job's, and the name under which its answer is awaited by
    ``front`` until ``deadline`` (monotonic clock). Without a ``job`` it is only looked for."""

    id: str
    front: str
    digest: str
    deadline: float
    priority: Priority = "interactive"
    sharing: Sharing | None = None
    job: Job | None = None

    @property
    def names(self) -> tuple[str, str, str]:
        """The flight to join or begin, the answer to look for in the cache, and the name to keep it by."""
        if self.sharing is None:
            return "", "", ""
        return self.sharing.flight, self.sharing.content if self.sharing.reads else "", self.sharing.content


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
    """A job in the queue, which has ``depth`` jobs now. ``entry`` serves to cancel it.

    One with a ``flight`` waits for that, as ``id``; when it has ``joined``, the job is another's.
    """

    entry: bytes
    depth: int
    size: int
    priority: Priority
    flight: str = ""
    id: str = ""
    joined: bool = False


@dataclass(frozen=True)
class Kept:
    """An answer from the cache, a packed ``Reply``."""

    reply: bytes


@dataclass(frozen=True)
class Looked:
    """What is known of some images. ``complete`` when each is answered or awaited, so that nothing is to be submitted;
    else ``found`` has None for those that are not answered."""

    complete: bool
    found: list[Submitted | Kept | None]


@dataclass(frozen=True)
class Refused:
    """A job that was not accepted: ``full`` (the queue, with ``depth`` jobs), ``spent`` (its ticket), or
    ``quarantined`` (its image, the one of that ``number`` from 1)."""

    reason: str
    depth: int
    number: int = 0


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
