"""What a gateway knows of one worker: its member, its last load report, what is on its way there, how it behaved.

A worker is *ready* while its reports are fresh and its requests do not break. One that refuses a connection to its
poll is *unreachable*, one that does not report in time is *silent*, one whose requests broke is *ejected* for a
while that doubles each time; *draining* is what it says itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from discovery import Member
from gateway.throughput import Rate, Throughput
from shoal.documents import WorkerState
from shoal.wire import LoadReport, ModelLoad, Priority, Status

Offer = tuple[tuple[str, Status, bool], ...]
"""Each model version that a worker reports, in which status, and whether it remembers answers."""

STATES: tuple[WorkerState, ...] = ("ready", "draining", "ejected", "silent", "unreachable")

_FRESH_SECONDS = 2.0
_ON_THE_WAY_SECONDS = 2.0
_LEAST_COST = 0.001  # seconds that an image takes beside its model; a free model is not infinitely fast
_FIRST_EJECTION, _LONGEST_EJECTION = 0.5, 10.0


class Worker:
    """One incarnation of a worker. ``news`` is called when it reports another ``offer``."""

    def __init__(self, member: Member, news: Callable[[], None] = lambda: None) -> None:
        self.member = member
        self.report: LoadReport | None = None
        self.offer: Offer = ()
        self._news = news
        self.vanished: float | None = None
        self._reachable = False
        self._missed = 0
        self._heard = float("-inf")
        self._on_the_way: dict[str, OnTheWay] = {}
        self._throughput = Throughput()
        self._breaks = 0
        self._broke = self._ejected_until = float("-inf")
        self._sends: set[asyncio.Timeout] = set()

    def __repr__(self) -> str:
        return f"<Worker {self.member.name} {self.state}>"

    @property
    def incarnation(self) -> str:
        """As it says itself: a static member's is known only from its report."""
        return self.report.incarnation if self.report else self.member.incarnation

    @property
    def keys(self) -> Collection[str]:
        """Its model versions, as it says itself, or as discovery does."""
        return self.report.models if self.report else self.member.models

    @property
    def public_url(self) -> str | None:
        return self.member.public_url or (self.report.public_url if self.report else None)

    @property
    def state(self) -> WorkerState:
        now = time.monotonic()
        if not self._reachable:
            return "unreachable"
        if now - self._heard > _FRESH_SECONDS:
            return "silent"
        if self.report and self.report.draining:
            return "draining"
        return "ejected" if now < self._ejected_until else "ready"

    @property
    def age(self) -> float:
        """Seconds since it was last heard of."""
        return time.monotonic() - self._heard

    @property
    def has_answered_since(self) -> bool:
        """Whether an ejected worker has reported after its last request broke."""
        return self._heard > self._broke

    # What it says

    def settle(self, report: LoadReport) -> None:
        """Take a report, unless a later one was heard already: its numbers replace all that we had guessed."""
        self._heard = time.monotonic()
        self._reachable = True
        self._missed = 0
        known = self.report
        if known and known.incarnation == report.incarnation and report.measured < known.measured:
            return
        if known and known.incarnation != report.incarnation:
            self._on_the_way.clear()
        for key, load in report.models.items():
            self._way(key).settle(load.arrived)
        self._throughput.add(report)
        self.report = report
        offer = tuple([(key, load.status, load.caches) for key, load in report.models.items()])
        if offer != self.offer:
            self.offer = offer
            self._news()

    def load(self, key: str) -> ModelLoad | None:
        return self.report.models.get(key) if self.report else None

    @property
    def measured_seconds(self) -> float:
        """How long its rates are averages of."""
        return self._throughput.seconds

    def rate(self, key: str) -> Rate:
        """How fast it was with a model version lately."""
        return self._throughput.rate(key)

    # What is on its way there

    def reserve(self, key: str, uses: int) -> None:
        """Count requests that were sent, or permitted, and that the next report cannot know yet."""
        self._way(key).add(uses)

    def expected_wait(self, key: str, priority: Priority) -> float:
        """Seconds until an image sent now would be executed: those before it x measured service time."""
        load = self.load(key)
        if load is None:
            return 0.0
        before = load.queue_depth if priority == "bulk" else load.queue_depth - load.bulk_depth
        return (before + self._way(key).count) * max(load.seconds_per_image, _LEAST_COST)

    def room(self, key: str, priority: Priority) -> int:
        """How many more this gateway may send there."""
        load = self.load(key)
        if load is None:
            return 0
        return (load.slots if priority == "interactive" else load.bulk_slots) - self._way(key).count

    def _way(self, key: str) -> OnTheWay:
        return self._on_the_way.setdefault(key, OnTheWay())

    # How it behaves

    def refused(self) -> None:
        """Nobody listens there: out until a poll succeeds."""
        self._reachable = False
        self._give_up()

    def missed(self) -> None:
        """A poll was not answered in time. One may have been our own fault, if it was us who were paused."""
        self._missed += 1
        if self._missed > 1 and self.state == "silent":
            self._give_up()

    def broke(self) -> bool:
        """A request to it found no connection, or lost it. Returns whether that takes the worker out."""
        now = time.monotonic()
        self._broke = now
        if now < self._ejected_until:
            return False  # the same incident
        self._ejected_until = now + min(_LONGEST_EJECTION, _FIRST_EJECTION * 2**self._breaks)
        self._breaks = min(self._breaks + 1, 16)
        return True

    def answered(self) -> None:
        """A request to it was answered, so the next ejection is a short one again."""
        self._breaks = 0

    @contextmanager
    def sending(self) -> Iterator[asyncio.Timeout]:
        """A request under way, as a timeout to enter. It expires when the worker falls silent."""
        scope = asyncio.timeout(None)
        self._sends.add(scope)
        try:
            yield scope
        finally:
            self._sends.discard(scope)

    @property
    def is_awaited(self) -> bool:
        """Whether requests to it are under way."""
        return bool(self._sends)

    def _give_up(self) -> None:
        """End the requests that are under way to a worker that is gone: another may still answer them in time."""
        now = asyncio.get_running_loop().time()
        for scope in self._sends:
            if scope.when() is None:
                scope.reschedule(now)


class OnTheWay:
    """Uses of this gateway's tickets that a worker's reports do not count yet: permitted, and not arrived.

    One that has not arrived after two seconds is taken for abandoned.
    """

    def __init__(self) -> None:
        self._added: deque[_Added] = deque()
        self._arrived = 0
        self._count = 0

    def __repr__(self) -> str:
        return f"<OnTheWay {self.count}, {self._arrived} arrived>"

    @property
    def count(self) -> int:
        now = time.monotonic()
        while self._added and self._added[0].until < now:
            self._count -= self._added.popleft().uses
        return self._count

    def add(self, uses: int) -> None:
        self._added.append(_Added(time.monotonic() + _ON_THE_WAY_SECONDS, uses))
        self._count += uses

    def settle(self, arrived: int) -> None:
        """Take the worker's cumulative count; a smaller one than before is that of a new queue."""
        new = arrived - self._arrived if arrived >= self._arrived else arrived
        self._arrived = arrived
        while new > 0 and self._added:
            first = self._added[0]
            came = min(new, first.uses)
            first.uses -= came
            self._count -= came
            new -= came
            if not first.uses:
                self._added.popleft()


@dataclass
class _Added:
    until: float
    uses: int


def decode_report(data: bytes | str) -> LoadReport:
    """Raises ``msgspec.MsgspecError`` for anything that is not a load report."""
    return msgspec.json.decode(data, type=LoadReport)
