"""What happened in the last minute: images a second and time to answer, of each model version, all workers together.

Workers count, and never forget while they run; a rate is the difference of what they have counted at two instants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from gateway.known_worker import Worker
from shoal.wire import ModelLoad, Served

_SECONDS = 60
_WINDOW = 3  # seconds over which a rate is taken: reports come twice a second, and not in step with us


class Count(NamedTuple):
    """Images executed, requests answered, the seconds that those took, and bytes that came past the gateways."""

    images: float = 0
    answers: float = 0
    seconds: float = 0
    direct_bytes: float = 0

    def plus(self, other: Count) -> Count:
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    def since(self, before: Count) -> Count:
        """What came on top of ``before``; all of it where the counting began anew."""
        return Count(*(now - old if now >= old else now for now, old in zip(self, before, strict=True)))


class Rates:
    """The last minute of every model version, in seconds, as ``sample`` is called once a second."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], Count] = {}
        self._totals: dict[str, deque[Count]] = {}

    def __repr__(self) -> str:
        return f"<Rates of {', '.join(self._totals) or 'nothing'}>"

    def sample(self, workers: Iterable[Worker]) -> None:
        """Take what the workers have counted by now. What one had counted before it was first seen is not ours."""
        told: dict[tuple[str, str], Count] = {}
        news: dict[str, Count] = {}
        for worker in workers:
            for key, load in worker.report.models.items() if worker.report else ():
                assert worker.report is not None
                name = (worker.incarnation, key)
                now = told[name] = _count(load, worker.report.served.get(key, Served()))
                news[key] = news.get(key, Count()).plus(now.since(self._told.get(name, now)))
        self._told = told
        for key in {**self._totals, **news}:
            totals = self._totals.setdefault(key, deque([Count()], maxlen=_SECONDS + _WINDOW + 1))
            totals.append(totals[-1].plus(news.get(key, Count())))
        self._totals = {key: totals for key, totals in self._totals.items() if key in news or _moves(totals)}

    def document(self) -> dict[str, Any]:
        """By model version: ``images`` a second and ``ms`` to answer in each second of the last minute, oldest first
        (none where nothing was answered), and the bytes that came ``direct`` since the gateway began."""
        return {key: _minute(list(totals)) for key, totals in sorted(self._totals.items())}


def _count(load: ModelLoad, served: Served) -> Count:
    return Count(load.images, served.answers, served.seconds, served.direct_bytes)


def _moves(totals: deque[Count]) -> bool:
    return totals[0].images != totals[-1].images or totals[0].answers != totals[-1].answers


def _minute(totals: list[Count]) -> dict[str, Any]:
    windows = [totals[n].since(totals[max(0, n - _WINDOW)]) for n in range(1, len(totals))][-_SECONDS:]
    return {
        "images": [round(window.images / _WINDOW, 2) for window in windows],
        "ms": [round(1000 * w.seconds / w.answers, 2) if w.answers else None for w in windows],
        "answers": totals[-1].answers,
        "direct_bytes": totals[-1].direct_bytes,
    }
