"""What one process counted beside Locust's own statistics, and how the counts of several are put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

LATE_SECONDS = 0.02


@dataclass
class Tally:
    """Arrivals of an open loop, and the span in seconds from the first request to the last answer."""

    launched: int = 0
    dropped: int = 0
    late: int = 0
    worst_delay: float = 0.0
    seconds: float = 0.0
    _first: float = math.inf

    def saw_request(self, started: float, ended: float) -> None:
        """A request from ``started`` to ``ended``, on one monotonic clock."""
        self._first = min(self._first, started)
        self.seconds = max(self.seconds, ended - self._first)

    def saw_launch(self, delay: float) -> None:
        """An arrival that was launched ``delay`` seconds after it was due."""
        self.launched += 1
        self.late += delay > LATE_SECONDS
        self.worst_delay = max(self.worst_delay, delay)

    def report(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "_first"}

    @classmethod
    def merged(cls, reports: Iterable[Mapping[str, Any]]) -> Self:
        """Counts are added. Spans are not, for the processes ran at the same time."""
        whole = cls()
        for report in reports:
            whole.launched += report["launched"]
            whole.dropped += report["dropped"]
            whole.late += report["late"]
            whole.worst_delay = max(whole.worst_delay, report["worst_delay"])
            whole.seconds = max(whole.seconds, report["seconds"])
        return whole
