"""What happened in the last minute: images a second and time to answer, of each model version, all workers together.

Workers count, and never forget while they run; a rate is the difference of what they have counted at two instants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from gateway.known_worker import Worker
from gateway.throughput import Count

_SECONDS = 60
_WINDOW = 3  # seconds over which a rate is taken: reports come twice a second, and not in step with us


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
            report = worker.report
            for key in report.models if report else ():
                assert report is not None
                name = (worker.incarnation, key)
                now = told[name] = Count.of(report, key)
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
