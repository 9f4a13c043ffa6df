"""The front processes of a node: started on the sockets that the supervisor bound, told its state, cleaned up after."""

from __future__ import annotations

import json
import logging
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from shoal import metrics, tls
from shoal.keeper import Keeper
from shoal.metrics import SupervisorMetrics
from shoal.processes import Child
from shoal.settings import WorkerSettings
from shoal.wire import Served
from worker.front_orders import Limits, Orders
from worker.queue import Queue, QueueUnavailable
from worker.tally import Tallies
from worker.vitals import Vitals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a node is: its name and incarnation, its listeners, its Redis."""

    worker: str
    incarnation: str
    public: socket.socket | None
    internal: socket.socket
    public_url: str | None
    internal_url: str
    redis: str


class Fronts:
    """All fronts of one node.

    ``state`` is what they are told, ``keys`` are the queues to clean up after one that died, ``changed`` hears when one
    is ready, and ``drain`` when one was told to drain the node.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        place: Place,
        queue: Queue,
        supervisor_metrics: SupervisorMetrics,
        *,
        keep: Callable[..., Keeper],
        state: Callable[[], Mapping[str, Any]],
        keys: Callable[[], Collection[str]],
        changed: Callable[[], None],
        drain: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._place = place
        self._queue = queue
        self._metrics = supervisor_metrics
        self._state = state
        self._keys = keys
        self._changed = changed
        self._drain = drain
        self._tallies = Tallies()
        self._names = [""] * settings.fronts
        self._ready: set[int] = set()
        self._asked_for: dict[int, list[str]] = {}
        self._vitals = [Vitals(settings.load_timeout) for _ in range(settings.fronts)]
        self.keepers = [self._keeper(number, keep) for number in range(settings.fronts)]

    def __repr__(self) -> str:
        return f"<Fronts {len(self._ready)} of {len(self.keepers)} ready>"

    @property
    def are_ready(self) -> bool:
        return len(self._ready) == len(self.keepers)

    @property
    def served(self) -> dict[str, Served]:
        """What they have answered, those that have ended included."""
        return self._tallies.total()

    def are_asked_for(self, key: str) -> bool:
        """Whether one of them has requests for a model version, or has not heard yet that it is to take no more."""
        return any(key in keys for keys in self._asked_for.values())

    def tell(self) -> None:
        """Send the node's state to all of them."""
        state = self._state()
        for keeper in self.keepers:
            if keeper.child is not None:
                keeper.child.send(state)

    def tick(self, seconds: float) -> Iterator[tuple[Keeper, Vitals]]:
        """Time has passed; each with its vitals now."""
        for keeper, vitals in zip(self.keepers, self._vitals, strict=True):
            vitals.tick(seconds)
            yield keeper, vitals

    def _keeper(self, number: int, keep: Callable[..., Keeper]) -> Keeper:
        return keep(
            f"front {number}",
            partial(self._start, number),
            heard=partial(self._heard, number),
            buried=partial(self._buried, number),
            stop_timeout=self._settings.drain_timeout + 5,
        )

    async def _start(self, number: int) -> Child:
        place = self._place
        name = self._names[number] = f"{place.worker}-front{number}-{uuid.uuid4().hex[:8]}"
        sockets = [place.internal] + ([place.public] if place.public else [])
        orders = Orders(
            front=name,
            worker=place.worker,
            incarnation=place.incarnation,
            public_url=place.public_url,
            redis=place.redis,
            public_sockets=[place.public.fileno()] if place.public else [],
            internal_sockets=[place.internal.fileno()],
            ticket_keys=str(self._settings.ticket_keys or ""),
            log_level=self._settings.log_level,
            public_certificate=_names(self._settings.public_files),
            internal_certificate=_names(self._settings.internal_files),
            limits=msgspec.convert(self._settings.model_dump(include=set(Limits.__struct_fields__)), Limits),
        )
        child = await Child.start(
            name,
            [sys.executable, "-m", "worker.front_process"],
            orders=json.loads(msgspec.json.encode(orders)),
            pass_fds=tuple(s.fileno() for s in sockets),
        )
        child.send(self._state())
        self._vitals[number] = Vitals(self._settings.load_timeout)
        return child

    def _heard(self, number: int, child: Child, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "ready":
                self._vitals[number] = Vitals(self._settings.hang_timeout)
                self._ready.add(number)
                self._changed()
            case "alive":
                self._asked_for[number] = event["models"]
                self._tallies.heard(number, event["served"])
                if number in self._ready:
                    self._vitals[number].spoke()
            case "drain":
                log.info("told to drain", extra={"front": self._names[number]})
                self._drain()

    async def _buried(self, number: int, child: Child) -> None:
        self._ready.discard(number)
        self._asked_for.pop(number, None)
        self._tallies.ended(number)
        metrics.bury(child.pid)
        if not self.keepers[number].is_stopping:
            self._metrics.deaths.labels("front").inc()
        name = self._names[number]
        try:
            for key in self._keys():
                self._metrics.abandoned.labels(key).inc(await self._queue.abandon(key, name))
            await self._queue.forget_front(name)
        except QueueUnavailable:
            log.info("nothing to clean up after a front: the queue is away", extra={"front": name})


def _names(files: tls.Files | None) -> tuple[str, ...]:
    return tuple(map(str, files.all)) if files else ()
