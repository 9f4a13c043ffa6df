"""The pace of an open loop: every arrival is launched when it is due, whatever became of those before it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

from gevent.event import Event

from loadtest.profiles import Profile


class Pacer:
    """Launches the arrivals ``part``, ``part + parts``, … of a profile, so that all parts make the whole.

    ``launch`` gets the moment at which the arrival was due (``time.perf_counter``), and must not block.
    """

    def __init__(self, profile: Profile, part: int, parts: int, launch: Callable[[float], None]) -> None:
        self._profile = profile
        self._numbers = itertools.count(part, parts)
        self._launch = launch
        self._limit = math.inf
        self._limited = Event()

    def run(self) -> None:
        """Returns after the last arrival."""
        started = time.perf_counter()
        for number in self._numbers:
            offset = self._profile.due(number)
            if offset is None or not self._await(started + offset, number):
                return
            self._launch(started + offset)

    def end(self, until: float) -> None:
        """Launch only what is due before second ``until`` of the profile."""
        self._limit = self._profile.arrivals(until)
        self._limited.set()

    def _await(self, due: float, number: int) -> bool:
        while number < self._limit:
            remaining = due - time.perf_counter()
            if remaining <= 0:
                return True
            self._limited.wait(remaining)
            self._limited.clear()
        return False
