"""What a gateway works out over a sliding window: from the workers' cumulative counts, and from its own refusals."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from shoal.errors import QueueFull
from shoal.wire import LoadReport, Served

WINDOW = 30.0
"""Seconds that a rate is an average of."""

_SAMPLE_EVERY = 1.0
_KEPT_EVERY = 3.0  # of every worker, so few


@dataclass(frozen=True)
class Rate:
    """What one model version did on one worker lately.

    ``busy`` is the share of the time, 0 to 1, of its processes, and ``seconds`` how long an answer took on average, 0
    where there was none.
    """

    images_per_second: float = 0.0
    busy: float = 0.0
    seconds: float = 0.0


class Count(NamedTuple):
    """What was counted of a model version: images executed, the seconds of processes that this took, requests answered,
    the seconds that those took, and bytes that came past the gateways."""

    images: float = 0
    busy: float = 0
    answers: float = 0
    seconds: float = 0
    direct_bytes: float = 0

    @classmethod
    def of(cls, report: LoadReport, key: str) -> Count:
        """As one worker has counted."""
        load, served = report.models[key], report.served.get(key, Served())
        return cls(load.images, load.busy, served.answers, served.seconds, served.direct_bytes)

    def plus(self, other: Count) -> Count:
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    def since(self, before: Count) -> Count:
        """What came on top of ``before``; all of it where the counting began anew."""
        return Count(*(now - old if now >= old else now for now, old in zip(self, before, strict=True)))


class Throughput:
    """The cumulative counts that one worker has reported within the window. All times are on that worker's clock.

    Only the counts are kept: whole reports of a large fleet would be most of a gateway's memory.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, Count]]] = deque()
        self._latest: LoadReport | None = None

    def __repr__(self) -> str:
        return f"<Throughput of {len(self._samples)} reports>"

    def add(self, report: LoadReport) -> None:
        """Take a report, the latest; of many in 3 s the first stays, and one of a version that had none before, from
        which that one is counted. Another incarnation's counts begin anew."""
        if self._latest and self._latest.incarnation != report.incarnation:
            self._samples.clear()
        self._latest = report
        while self._samples and report.measured - self._samples[0][0] > WINDOW:
            self._samples.popleft()
        at, counts = self._samples[-1] if self._samples else (-math.inf, {})
        if report.measured - at >= _KEPT_EVERY or not report.models.keys() <= counts.keys():
            self._samples.append((report.measured, self._counts(report)))

    def _counts(self, report: LoadReport) -> dict[str, Count]:
        """Of every model version. Equal ones are kept once: most workers have versions that nobody asks for."""
        last = self._samples[-1][1] if self._samples else {}
        counts = {key: Count.of(report, key) for key in report.models}
        return last if counts == last else counts

    @property
    def seconds(self) -> float:
        """How long the worker has been measured, the window at the most."""
        return self._latest.measured - self._samples[0][0] if self._latest and self._samples else 0.0

    def rate(self, key: str) -> Rate:
        """How fast a model version was. Counts that have begun anew within the window are counted from there."""
        now = self._latest.models.get(key) if self._latest else None
        first = next((sample for sample in self._samples if key in sample[1]), None)
        if self._latest is None or now is None or first is None:
            return Rate()
        length = self._latest.measured - first[0]
        if length < _SAMPLE_EVERY:
            return Rate()
        done = Count.of(self._latest, key).since(first[1][key])
        busy = min(1.0, done.busy / (length * max(1, now.processes)))
        return Rate(done.images / length, busy, done.seconds / max(1, done.answers))


class Refusals:
    """The requests that this gateway refused for want of room, by model."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counted: deque[tuple[float, dict[str, int]]] = deque()

    def __repr__(self) -> str:
        return f"<Refusals of {len(self._counted)} seconds>"

    def add(self, model: str) -> None:
        now = self._clock()
        self._forget(now)
        if not self._counted or now - self._counted[-1][0] >= _SAMPLE_EVERY:
            self._counted.append((now, {}))
        counts = self._counted[-1][1]
        counts[model] = counts.get(model, 0) + 1

    @contextmanager
    def noted(self, model: str) -> Iterator[None]:
        """Whatever is refused meanwhile is a request for ``model``."""
        try:
            yield
        except QueueFull:
            self.add(model)
            raise

    def per_second(self) -> dict[str, float]:
        """Of each model that was refused within the window."""
        now = self._clock()
        self._forget(now)
        seconds = min(WINDOW, max(_SAMPLE_EVERY, now - self._began))
        totals: dict[str, int] = {}
        for _, counts in self._counted:
            for model, count in counts.items():
                totals[model] = totals.get(model, 0) + count
        return {model: total / seconds for model, total in totals.items()}

    def _forget(self, now: float) -> None:
        while self._counted and now - self._counted[0][0] > WINDOW:
            self._counted.popleft()
