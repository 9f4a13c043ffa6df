"""Whether a child still works, counted in ticks of its watcher: what the watcher slept through itself is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

HEARTBEAT = 2.0
"""Seconds without an execution after which a model is sent a heartbeat."""

_STALLED = 3 * HEARTBEAT
_STALLED_EXECUTIONS = 3
_HUNG_EXECUTIONS = 10


@dataclass
class Vitals:
    """A child that says something at least once a second. ``limit`` is the seconds of silence that it may keep."""

    limit: float
    silent: float = 0.0

    def spoke(self) -> None:
        self.silent = 0.0

    def tick(self, seconds: float) -> None:
        self.silent += seconds

    @property
    def is_hung(self) -> bool:
        return self.silent > self.limit


@dataclass
class ModelVitals(Vitals):
    """A model process: beside its words, its executions.

    ``idle`` is the seconds since one was completed, ``lasting`` how long the present one takes so far, and
    ``longest`` the longest that was seen. An execution may last ten times as long before it counts as hung.
    """

    idle: float = 0.0
    lasting: float = 0.0
    longest: float = 0.0
    _executions: int = 0

    def executed(self, event: dict[str, Any]) -> None:
        """A report of the process, with its cumulative count of executions."""
        self.spoke()
        self.longest = max(self.longest, event["longest"])
        self.lasting = event["lasting"]
        if event["executions"] != self._executions:
            self._executions = event["executions"]
            self.idle = 0.0

    def tick(self, seconds: float) -> None:
        super().tick(seconds)
        self.idle += seconds

    @property
    def is_hung(self) -> bool:
        return super().is_hung or self.lasting > max(self.limit, _HUNG_EXECUTIONS * self.longest)

    @property
    def is_stalled(self) -> bool:
        """Not useful now: nothing was completed for longer than heartbeats and long executions explain."""
        return self.idle > max(_STALLED, _STALLED_EXECUTIONS * self.longest)
