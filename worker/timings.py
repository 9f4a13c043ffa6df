"""How long a request spent where."""

from __future__ import annotations

import time


class Timings:
    """Milliseconds by stage, for the answer, its ``Server-Timing`` header and the metrics."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """What has passed since the last mark was this stage."""
        now = time.perf_counter()
        self.stages[stage] = (now - self._last) * 1000
        self._last = now

    @property
    def seconds(self) -> float:
        """Since the request began."""
        return time.perf_counter() - self._started

    def header(self) -> str:
        stages = [*self.stages.items(), ("total", self.seconds * 1000)]
        return ", ".join(f"{name};dur={ms:.2f}" for name, ms in stages)
