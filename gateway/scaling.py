"""How many workers the present load needs: what an autoscaler asks of ``/v1/scale-signal``. Arithmetic, and no state
but the last suggestion, so that the suggestion stays where it is while the load does.

docs/scaling.md explains the numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from discovery import Member
from gateway.fleet import Fleet
from gateway.known_worker import Worker
from gateway.throughput import WINDOW
from shoal import http
from shoal.wire import Option

TOLERANCE = 0.1
"""The share by which the need may pass a whole number of workers before the suggestion follows."""

LEAST_MEASURED = 10.0
"""Seconds that a load must have been measured before fewer workers are suggested."""

TARGET = 0.7
"""How busy a worker is to be, unless the autoscaler says otherwise."""

_TARGETS = Option(0.05, 1.0)
_ALL = ""
_WORTH_SAYING = 0.05


@dataclass(frozen=True)
class Load:
    """The load of one model, or of all, on the workers that are ready for it.

    ``busy``, ``refused`` and ``waiting`` are in workers: how many are kept busy, how many what was refused would have
    kept busy, and how many would work off what waits in the length of the window. ``measured`` is the seconds that the
    rates are averages of, so far.
    """

    workers: int = 0
    busy: float = 0.0
    refused: float = 0.0
    waiting: float = 0.0
    images_per_second: float = 0.0
    queue_depth: int = 0
    expected_wait: float = 0.0
    refusals_per_second: float = 0.0
    measured: float = WINDOW

    def with_others(self, others: int) -> Load:
        """Of a fleet with so many workers besides, which other gateways know. Ours are as good as any sample."""
        if not self.workers or not others:
            return self
        factor = (self.workers + others) / self.workers
        return replace(
            self,
            workers=self.workers + others,
            busy=self.busy * factor,
            waiting=self.waiting * factor,
            images_per_second=self.images_per_second * factor,
            queue_depth=round(self.queue_depth * factor),
        )

    @property
    def utilisation(self) -> float:
        return self.busy / self.workers if self.workers else 0.0

    def need(self, target: float) -> float:
        """Workers, of which each is busy for the share ``target`` of the time."""
        return (self.busy + self.refused + self.waiting) / target


def desired(need: float, before: int, measured: float = WINDOW) -> int:
    """The number of workers for a ``need``, where ``before`` were suggested: as few changes as the need allows.

    It rises when the need passes what was suggested by a tenth, and falls when a tenth more would still be met. So
    between two neighbours it goes up and down again only when the load has changed by more than a fifth. What was
    ``measured`` for a few seconds only takes nobody away: a gateway that has just started knows of no load.
    """
    lowest = math.ceil(round(need / (1 + TOLERANCE), 6))
    highest = math.ceil(round(need * (1 + TOLERANCE), 6))
    if measured < LEAST_MEASURED:
        highest = max(highest, before)
    return max(1, min(max(before, lowest), highest))


@dataclass
class ScaleSignal:
    """The suggestions of one gateway. It remembers the last one for each model and target."""

    _before: dict[tuple[str, float], int] = field(default_factory=dict)

    def answer(self, request: web.Request, fleet: Fleet) -> web.Response:
        """The answer to ``GET /v1/scale-signal``. Raises ``InvalidOption``."""
        target = round(http.number_of(request, "target", _TARGETS) or TARGET, 2)  # few: each is remembered
        return http.json_response(self.document(fleet, fleet.refusals.per_second(), target, fleet.elsewhere.values()))

    def document(
        self,
        workers: Iterable[Worker],
        refusals: Mapping[str, float],
        target: float,
        elsewhere: Collection[Member] = (),
    ) -> dict[str, Any]:
        """The answer, JSON-ready. What is ``elsewhere`` is taken to be as busy as the ``workers``."""
        ready = [worker for worker in workers if worker.state == "ready" and _keys(worker)]
        models = sorted({key.rpartition("@")[0] for worker in ready for key in _keys(worker)} | {*refusals})
        self._before = {k: v for k, v in self._before.items() if k[0] in (_ALL, *models)}
        others = Counter(model for member in elsewhere for model in {key.rpartition("@")[0] for key in member.models})
        loads = {m: _load_of(ready, m, refusals.get(m, 0.0)).with_others(others[m]) for m in models}
        return {
            "target": target,
            "window_seconds": WINDOW,
            "total": self._said(_ALL, _total(ready, loads.values(), len(elsewhere)), target),
            "models": {model: self._said(model, load, target) for model, load in loads.items()},
        }

    def _said(self, model: str, load: Load, target: float) -> dict[str, Any]:
        name, need = (model, target), load.need(target)
        before = self._before.get(name, load.workers)
        now = self._before[name] = desired(need, before, load.measured)
        return {
            "workers": load.workers,
            "desired": now,
            "utilisation": round(load.utilisation, 4),
            "images_per_second": round(load.images_per_second, 3),
            "queue_depth": load.queue_depth,
            "expected_wait": round(load.expected_wait, 4),
            "refusals_per_second": round(load.refusals_per_second, 4),
            "need": {
                "busy": round(load.busy, 4),
                "refused": round(load.refused, 4),
                "waiting": round(load.waiting, 4),
                "workers": round(need, 4),
            },
            "reasons": _reasons(load, need, target, before, now),
        }


def _reasons(load: Load, need: float, target: float, before: int, now: int) -> list[str]:
    """The arithmetic in words, in the order in which it is done."""
    said = [f"images keep {load.busy:.2f} of {load.workers} workers busy"]
    if load.refused:
        said.append(f"what was refused would keep {load.refused:.2f} more busy")
    if load.waiting >= _WORTH_SAYING:
        said.append(f"what waits would keep {load.waiting:.2f} more busy for {WINDOW:g} s")
    said.append(f"at {target:.0%} each that needs {need:.2f} workers")
    if now != max(1, math.ceil(round(need, 6))) and load.measured >= LEAST_MEASURED:
        said.append(f"{now} is near enough to that, and nearer to the {before} before")
    if not load.workers:
        said.append("no worker is ready")
    elif load.measured < LEAST_MEASURED:
        said.append(f"measured for {load.measured:.0f} s only, so nobody is taken away")
    return said


def _total(ready: list[Worker], loads: Iterable[Load], elsewhere: int) -> Load:
    """Of all models together. A worker whose models share its devices is busy at most all the time."""
    every = list(loads)
    busy = Load(len(ready), sum(_busy(worker, _keys(worker)) for worker in ready)).with_others(elsewhere)
    return Load(
        workers=busy.workers,
        busy=busy.busy,
        refused=sum(load.refused for load in every),
        waiting=sum(load.waiting for load in every),
        images_per_second=sum(load.images_per_second for load in every),
        queue_depth=sum(load.queue_depth for load in every),
        expected_wait=max((load.expected_wait for load in every), default=0.0),
        refusals_per_second=sum(load.refusals_per_second for load in every),
        measured=_measured(ready),
    )


def _load_of(ready: list[Worker], model: str, refusals: float) -> Load:
    """Of one model: its versions together, on the workers that are ready for one."""
    serving = {worker: keys for worker in ready if (keys := _keys(worker, model))}
    loads = [(worker.report.models[key]) for worker, keys in serving.items() for key in keys if worker.report]
    costs = [load.seconds_per_image for load in loads]
    return Load(
        workers=len(serving),
        busy=sum(_busy(worker, keys) for worker, keys in serving.items()),
        refused=refusals * sum(costs) / max(1, len(costs)),
        waiting=sum(load.queue_depth * load.seconds_per_image for load in loads) / WINDOW,
        images_per_second=sum(worker.rate(key).images_per_second for worker, keys in serving.items() for key in keys),
        queue_depth=sum(load.queue_depth for load in loads),
        expected_wait=min((_wait(worker, keys) for worker, keys in serving.items()), default=0.0),
        refusals_per_second=refusals,
        measured=_measured(serving),
    )


def _wait(worker: Worker, keys: Iterable[str]) -> float:
    """For the version that waits longest: one that has no traffic says nothing."""
    return max(worker.expected_wait(key, "interactive") for key in keys)


def _measured(workers: Iterable[Worker]) -> float:
    """Of the one that is known longest: others have joined it since."""
    return max((worker.measured_seconds for worker in workers), default=0.0)


def _busy(worker: Worker, keys: Iterable[str]) -> float:
    return min(1.0, sum(worker.rate(key).busy for key in keys))


def _keys(worker: Worker, model: str | None = None) -> list[str]:
    """The versions that a worker is ready for: of one model, or of all."""
    models = worker.report.models if worker.report else {}
    ready = [key for key, load in models.items() if load.status == "ready"]
    return [key for key in ready if model in (None, key.rpartition("@")[0])]
