"""Locust's load shape, which follows a profile: by its users in a closed loop, by its length in an open one."""

from __future__ import annotations

import time

from locust import LoadTestShape

from loadtest.options import Load, Loop

_SPAWN_RATE = 100.0  # users a second; Locust warns of more


class Shape(LoadTestShape):
    """The users of an open loop are those who may be busy at once, so they stay as many as they are."""

    def __init__(self, load: Load, loop: Loop) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert load.profile is not None
        self._profile = load.profile
        self._users = load.users
        self._loop = loop
        self._started: float | None = None
        self._ended: float | None = None

    @property
    def begun(self) -> bool:
        return self._started is not None

    def begin(self) -> None:
        """The users are there: from now on it counts."""
        self._started = time.perf_counter()

    def end(self) -> None:
        """Nothing more is due, however long the last answers take."""
        if self._ended is None:
            self._ended = self.elapsed

    def rewind(self) -> None:
        """Another test is about to start."""
        self._started = self._ended = None

    @property
    def elapsed(self) -> float:
        """Seconds from ``begin`` to now or ``end``, no more than the profile has; 0 before."""
        if self._ended is not None or self._started is None:
            return self._ended or 0.0
        return min(time.perf_counter() - self._started, self._profile.seconds)

    @property
    def due(self) -> int | None:
        """The arrivals of an open loop so far; None in a closed one."""
        return int(self._profile.arrivals(self.elapsed)) if self._loop == "open" else None

    def tick(self) -> tuple[int, float] | None:
        if self.elapsed >= self._profile.seconds:
            return None
        users = self._users if self._loop == "open" else max(1, round(self._profile.level(self.elapsed)))
        return users, _SPAWN_RATE
