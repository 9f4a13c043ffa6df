"""The process that owns a node: it binds the sockets, keeps the children alive, and takes the node in and out.

It knows deaths by waiting on its children, so the jobs of a dead model process are reclaimed at once and
those of a slow one never. Its life, from the inside out: Redis, model processes, fronts, membership.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

import discovery
from discovery import Member, publications
from shoal import admin, logs, metrics, notify, processes, publication, service, tls
from shoal.keeper import Keeper, keeping
from shoal.processes import Child
from shoal.settings import WorkerSettings
from shoal.version import VERSION
from shoal.wire import NodeState
from worker import devices, quarantine, redis_server
from worker.courier_keeping import CourierChild
from worker.fronts import Fronts, Place
from worker.queue import Queue, QueueUnavailable
from worker.served_models import CannotStart, ServedModels
from worker.watch import TICK, Watch

log = logging.getLogger(__name__)

_REDIS_START = 10.0
_LATE_SECONDS = 10.0
_LAST_SECONDS = 60.0  # that ending the children may take beyond the grace and the drain


class Supervisor:
    """One node. ``run`` is its whole life."""

    def __init__(self, settings: WorkerSettings, notifier: notify.Notifier) -> None:
        self.settings = settings
        self._notifier = notifier
        self.incarnation = uuid.uuid4().hex
        self.draining = False
        self.name = settings.name
        self.models: ServedModels | None = None
        self.fronts: Fronts | None = None
        self.courier: CourierChild | None = None
        self._redis_keepers: list[Keeper] = []
        self._keeper = partial(Keeper, started=self._tell_pids)
        self._changed = asyncio.Event()
        self._loaded = asyncio.Event()
        self._useful = asyncio.Event()
        self._metrics = metrics.SupervisorMetrics(CollectorRegistry())
        self._watched = time.monotonic()

    def __repr__(self) -> str:
        return f"<Supervisor {self.name}: {self.models}, {'draining' if self.draining else 'serving'}>"

    async def run(self, stop: service.Stop) -> None:
        """Start everything, register when truly ready, serve until ``stop``, drain, end.

        Raises ``CannotStart`` when a model of the settings does not load.
        """
        settings = self.settings
        public = service.bind(settings.host, settings.port) if settings.public else None
        internal = service.bind(settings.internal_host, settings.internal_port)
        encrypted = bool(settings.public_files)
        public_url = (
            (settings.public_url or service.url_of(settings.host, public, encrypted=encrypted)) if public else None
        )
        self.name = settings.name or f"{socket.gethostname()}-{internal.getsockname()[1]}"
        async with AsyncExitStack() as stack:
            for sock in (public, internal):
                if sock:
                    stack.callback(sock.close)
            place = Place(
                self.name,
                self.incarnation,
                public,
                internal,
                public_url,
                service.url_of(settings.internal_host, internal, encrypted=bool(settings.internal_files)),
                await stack.enter_async_context(self._redis()),
            )
            queue = await stack.enter_async_context(Queue.connect(place.redis))
            calls = admin.calls(self._description, stop) + quarantine.calls(queue, self._keys)
            remote = settings.internal_files if settings.admin.startswith("https://") else None
            certificate = await stack.enter_async_context(tls.followed(remote, "admin"))
            await stack.enter_async_context(admin.listening(settings.admin, calls, certificate))
            backend = await stack.enter_async_context(
                discovery.connect(settings.discovery, token=settings.discovery_token.get_secret_value() or None)
            )
            watch = await stack.enter_async_context(backend.watch_values(publication.PREFIX))
            await publications.first(watch)
            models = self.models = ServedModels(
                settings,
                await devices.find(settings.devices),
                queue,
                place.redis,
                Path(settings.model_cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-models-"))),
                self._metrics,
                changed=self._models_changed,
                keep=self._keeper,
                is_asked_for=lambda key: self.fronts is not None and self.fronts.are_asked_for(key),
            )
            self._notifier.say("loading models")
            self._watched = time.monotonic()
            self._notifier.need("watch over the children", self._is_watching)
            following = models.serve(watch, self.name)
            await stack.enter_async_context(service.background(following, self._tell_fronts(), self._watch(queue)))
            if not await _first(self._loaded.wait(), stop.requested()):
                return
            self.courier = CourierChild(settings, place.redis, self._metrics, keep=self._keeper)
            await stack.enter_async_context(keeping(*self.courier.keepers))
            self.fronts = Fronts(
                settings,
                place,
                queue,
                self._metrics,
                keep=self._keeper,
                state=self._state,
                keys=self._keys,
                changed=self._check_useful,
                drain=stop.request,
            )
            await stack.enter_async_context(keeping(*self.fronts.keepers))
            if not await _first(self._useful.wait(), stop.requested()):
                return
            await self._be_member(backend, place, stop)
            await stop.grace(settings.grace)

    async def _be_member(self, backend: discovery.Discovery, place: Place, stop: service.Stop) -> None:
        """Be registered until ``stop``, then say that the node drains."""
        async with backend.membership(self._member(place)) as membership:
            self._notifier.ready(f"ready: {', '.join(self._keys()) or 'no model yet'}")
            processes.tell_parent(
                {
                    "event": "ready",
                    "worker": self.name,
                    "incarnation": self.incarnation,
                    "internal_url": place.internal_url,
                    "public_url": place.public_url,
                    "models": self._keys(),
                    "pids": self._pids(),
                }
            )
            urls = {"internal_url": place.internal_url, "public_url": place.public_url}
            log.info("ready", extra={"worker": self.name, **urls})
            while not stop.is_requested:
                self._changed.clear()
                await _first(self._changed.wait(), stop.requested())
                await membership.update(self._member(place))
            self.draining = True
            self._broadcast()
            seconds = self.settings.grace + self.settings.drain_timeout + _LAST_SECONDS
            self._notifier.draining("draining", seconds=seconds)
            processes.tell_parent({"event": "draining"})

    def _member(self, place: Place) -> Member:
        return Member(
            role="worker",
            name=self.name,
            incarnation=self.incarnation,
            internal_url=place.internal_url,
            public_url=place.public_url,
            zone=self.settings.zone,
            version=VERSION,
            models={key: state.status for key, state in self._states().items()},
        )

    def _pids(self) -> dict[str, list[int]]:
        kept = {
            "front": self.fronts.keepers if self.fronts else [],
            "model": self.models.keepers if self.models else [],
            "courier": self.courier.keepers if self.courier else [],
            "redis": self._redis_keepers,
        }
        running = {role: [k.child for k in keepers if k.child] for role, keepers in kept.items()}
        pids = {role: [c.pid for c in children if c.returncode is None] for role, children in running.items()}
        return {"worker": [os.getpid()]} | pids

    def _tell_pids(self) -> None:
        processes.tell_parent({"event": "pids", "pids": self._pids()})

    def _description(self) -> dict[str, Any]:
        return {"name": self.name, "role": "worker", "incarnation": self.incarnation, "pids": self._pids()}

    # The node's Redis

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[str]:
        if self.settings.redis:
            yield self.settings.redis
            return
        with tempfile.TemporaryDirectory(prefix="shoal-redis-") as folder:
            command = redis_server.command(Path(folder), most_bytes=self.settings.redis_bytes)

            async def start() -> Child:
                redis_server.socket_of(Path(folder)).unlink(missing_ok=True)
                return await Child.start("redis", command)

            async def buried(child: Child) -> None:
                self._metrics.deaths.labels("redis").inc()

            keeper = self._keeper("redis", start, heard=lambda child, event: None, buried=buried, stop_timeout=5)
            self._redis_keepers.append(keeper)
            async with keeping(keeper):
                path = str(redis_server.socket_of(Path(folder)))
                await _answers(path)
                yield path

    # Models

    def _keys(self) -> list[str]:
        return self.models.keys if self.models else []

    def _states(self) -> Mapping[str, Any]:
        return self.models.states if self.models else {}

    def _models_changed(self) -> None:
        self._changed.set()
        self._tell_pids()
        self._broadcast()
        self._check_useful()

    def _check_useful(self) -> None:
        if self.models is not None and self.models.are_settled:
            self._loaded.set()
            if self.fronts is not None and self.fronts.are_ready:
                self._useful.set()

    # What it tells, and whom it watches

    def _state(self) -> Mapping[str, Any]:
        served = self.fronts.served if self.fronts is not None else {}
        state = NodeState(draining=self.draining, models=dict(self._states()), pids=self._pids(), served=served)
        document: dict[str, Any] = json.loads(msgspec.json.encode(state))
        return document

    def _broadcast(self) -> None:
        if self.fronts is not None:
            self.fronts.tell()
        if self.courier is not None:
            self.courier.tell()

    async def _tell_fronts(self) -> None:
        """Once a second, whatever else is slow: without a word from us they count as lost."""
        while True:
            self._broadcast()
            await asyncio.sleep(TICK)

    async def _watch(self, queue: Queue) -> None:
        """Once a second: look after the children, and keep idle models from looking dead."""
        redis = next(iter(self._redis_keepers), None)
        watch = Watch(queue, redis, self._metrics, hang_timeout=self.settings.hang_timeout)
        while True:
            await asyncio.sleep(TICK)
            assert self.models is not None
            self.models.tick(TICK)
            for process in self.models.processes:
                if process.keeper is not None:
                    watch.check("model", process.keeper, process.vitals or process.starting)
            if self.fronts is not None:
                for keeper, vitals in self.fronts.tick(TICK):
                    watch.check("front", keeper, vitals)
            if self.courier is not None:
                self.courier.vitals.tick(TICK)
                for keeper in self.courier.keepers:
                    watch.check("courier", keeper, self.courier.vitals)
            await watch.check_redis(list(self.models))
            self._watched = time.monotonic()

    def _is_watching(self) -> bool:
        """Whether the children are looked after: what hangs among them is then replaced, and we need not be."""
        return time.monotonic() - self._watched < _LATE_SECONDS


async def _first(*waits: Any) -> bool:
    """Wait for any of ``waits``; True when the first of them came."""
    tasks = [asyncio.ensure_future(w) for w in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return bool(tasks[0].done())
    finally:
        for task in tasks:
            task.cancel()


async def _answers(path: str) -> None:
    """Wait until the Redis that was just started answers. Raises ``CannotStart``."""
    deadline = time.monotonic() + _REDIS_START
    async with Queue.connect(path) as queue:
        while True:
            try:
                await queue.run_id()
                return
            except QueueUnavailable as error:
                if time.monotonic() > deadline:
                    raise CannotStart(f"Redis does not answer: {error}") from error
                await asyncio.sleep(0.02)


async def main(settings: WorkerSettings, notifier: notify.Notifier) -> int:
    """Run a worker until it is told to stop. Returns the exit code."""
    stop = service.Stop()
    stop.listen()
    logs.configure(settings.log_level, role="worker", instance=settings.name, pid=str(os.getpid()))
    code = 0
    try:
        async with service.background(
            *([service.hold_lifeline(service.lines_of_stdin())] if settings.lifeline else []), notifier.keep_telling()
        ):
            await Supervisor(settings, notifier).run(stop)
    except* (CannotStart, devices.NoSuchDevice, redis_server.NoRedisServer) as group:
        log.error("cannot start", extra={"error": str(_leaf(group))})
        code = 1
    return code


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
