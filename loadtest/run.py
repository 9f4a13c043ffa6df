"""One process's part in one load test: who is free, what is under way, and what comes next."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import gevent
from gevent.event import Event
from locust.env import Environment

from loadtest import pictures
from loadtest.arrivals import Pacer
from loadtest.options import Plan
from loadtest.pictures import Picture
from loadtest.profiles import Profile
from loadtest.tally import Tally

_MARGIN = 2.0  # seconds beyond a request's own timeout


class NoFreeUser(Exception):
    """An arrival that was due while every user was busy."""

    def __repr__(self) -> str:
        return "no_free_user"


class Performer(Protocol):
    """A user that can make one whole request."""

    def perform(self, due: float) -> None:
        """``due`` is when it should have begun: what the caller's latency counts from."""


@dataclass(frozen=True)
class Part:
    """This process's share of an open loop's arrivals."""

    profile: Profile
    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class Item:
    """What one request uploads, and the words that its statistics are told apart by."""

    picture: Picture
    model: str
    words: tuple[str, ...]


class Run:
    """Holds no thread of its own until ``begin``. ``drain`` ends it; nothing is under way after that."""

    def __init__(self, environment: Environment, plan: Plan, part: Part | None) -> None:
        self.plan = plan
        self.tally = Tally()
        self.closing = False
        self._environment = environment
        self._items = itertools.cycle(_items(plan))
        self._gateways = itertools.cycle(plan.gateways)
        self._answers: dict[tuple[str, ...], str] = {}
        self._free: dict[type[Any], list[Performer]] = {}
        self._under_way = 0
        self._quiet = Event()
        self._quiet.set()
        self._pacer = Pacer(part.profile, part.number, part.of, self._launch) if part else None
        self._pacing: gevent.Greenlet | None = None

    @property
    def begun(self) -> bool:
        """Whether requests may have been made."""
        return self._pacer is None or self._pacing is not None

    def begin(self) -> None:
        """Start an open loop's clock. The users of a closed one start by themselves."""
        if self._pacer is not None and self._pacing is None:
            self._pacing = gevent.spawn(self._pacer.run)

    def drain(self, until: float) -> None:
        """Launch what is due before second ``until``, then wait for every answer."""
        if self._pacer is not None and self._pacing is not None:
            self._pacer.end(until)
            self._pacing.join()
        self.closing = True
        self._quiet.wait(self.plan.timeout + _MARGIN)

    def next_item(self) -> Item:
        return next(self._items)

    def next_gateway(self) -> str:
        return next(self._gateways)

    def agrees(self, picture: Picture, model: str, version: str, label: str) -> bool:
        """Whether this picture had the same label before from this version of the model."""
        return self._answers.setdefault((picture.name, model, version), label) == label

    @contextmanager
    def request(self) -> Iterator[None]:
        """While one whole request is under way."""
        started = time.perf_counter()
        self._under_way += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self.tally.saw_request(started, time.perf_counter())
            self._under_way -= 1
            if self._under_way == 0:
                self._quiet.set()

    # Users of an open loop

    def admit(self, user: Performer) -> None:
        self._free.setdefault(type(user), []).append(user)

    def dismiss(self, user: Performer) -> None:
        free = self._free.get(type(user), [])
        if user in free:
            free.remove(user)

    def _launch(self, due: float) -> None:
        user = self._take()
        if user is None:
            self.tally.dropped += 1
            self._environment.events.request.fire(
                request_type="DROPPED",
                name="arrival",
                response_time=None,
                response_length=0,
                exception=NoFreeUser(),
                context={},
            )
            return
        self.tally.saw_launch(time.perf_counter() - due)
        gevent.spawn(self._serve, user, due)

    def _take(self) -> Performer | None:
        """A free user, the kinds in turn; the one that was busy last, whose connection is still open."""
        for kind in list(self._free):
            self._free[kind] = free = self._free.pop(kind)
            if free:
                return free.pop()
        return None

    def _serve(self, user: Performer, due: float) -> None:
        try:
            user.perform(due)
        except Exception as error:
            self._environment.events.user_error.fire(user_instance=user, exception=error, tb=error.__traceback__)
        finally:
            self.admit(user)


def _items(plan: Plan) -> list[Item]:
    """Every picture with every model; what varies is named in the statistics."""
    shown = pictures.read(plan.folder) if plan.folder else pictures.make(plan.sizes, plan.pictures)
    models = plan.models or [""]
    several_sizes = len({picture.size for picture in shown}) > 1
    return [
        Item(
            picture,
            model,
            ((model,) if len(models) > 1 else ()) + ((picture.size,) if several_sizes else ()),
        )
        for picture in shown
        for model in models
    ]
