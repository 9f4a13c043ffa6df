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
import sys
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
from discovery import Member
from shoal import admin, logs, metrics, processes, service
from shoal.errors import ModelCrashed
from shoal.keeper import Keeper, keeping
from shoal.processes import Child
from shoal.settings import WorkerSettings
from shoal.version import VERSION
from shoal.wire import ModelCard, NodeState, Reply
from worker import model_process, quarantine, redis_server
from worker.front_orders import Limits, Orders
from worker.queue import Queue, QueueUnavailable
from worker.served_model import ServedModel
from worker.vitals import Vitals
from worker.watch import TICK, Watch

log = logging.getLogger(__name__)

_REDIS_START = 10.0
_MODEL_STOP = 30.0
_TRIES_TO_LOAD = 3


class CannotStart(Exception):
    """The node cannot become useful: what it was told to serve does not load."""


class Supervisor:
    """One node. ``run`` is its whole life."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.incarnation = uuid.uuid4().hex
        self.models = [ServedModel(text, load_timeout=settings.load_timeout) for text in settings.models]
        self.draining = False
        self.name = settings.name
        self._fronts: list[Keeper] = []
        self._front_vitals: dict[int, Vitals] = {}
        self._fronts_ready: set[int] = set()
        self._keeper = partial(Keeper, started=self._tell_pids)
        self._keepers: dict[str, list[Keeper]] = {"front": self._fronts, "model": [], "redis": []}
        self._changed = asyncio.Event()
        self._loaded = asyncio.Event()
        self._useful = asyncio.Event()
        self._metrics = metrics.SupervisorMetrics(CollectorRegistry())

    def __repr__(self) -> str:
        return f"<Supervisor {self.name}: {self.models}, {'draining' if self.draining else 'serving'}>"

    async def run(self, stop: service.Stop) -> None:
        """Start everything, register when truly ready, serve until ``stop``, drain, end.

        Raises ``CannotStart`` when a model does not load.
        """
        settings = self.settings
        public = service.bind(settings.host, settings.port) if settings.public else None
        internal = service.bind(settings.internal_host, settings.internal_port)
        internal_url = service.url_of(settings.internal_host, internal)
        public_url = (settings.public_url or service.url_of(settings.host, public)) if public else None
        self.name = settings.name or f"{socket.gethostname()}-{internal.getsockname()[1]}"
        async with AsyncExitStack() as stack:
            for sock in (public, internal):
                if sock:
                    stack.callback(sock.close)
            redis = await stack.enter_async_context(self._redis())
            queue = await stack.enter_async_context(Queue.connect(redis))
            calls = admin.calls(self._description, stop) + quarantine.calls(queue, [m.key for m in self.models])
            await stack.enter_async_context(admin.listening(settings.admin, calls))
            backend = await stack.enter_async_context(
                discovery.connect(settings.discovery, token=settings.discovery_token.get_secret_value() or None)
            )
            models = self._keepers["model"]
            models += [self._model_keeper(model, redis, queue) for model in self.models]
            await stack.enter_async_context(keeping(*models))
            await stack.enter_async_context(service.background(self._tell_fronts(), self._watch(queue)))
            if not await _first(self._loaded.wait(), stop.requested()):
                return
            self._fronts += [
                self._front_keeper(n, redis, public, internal, public_url, queue) for n in range(settings.fronts)
            ]
            await stack.enter_async_context(keeping(*self._fronts))
            if not await _first(self._useful.wait(), stop.requested()):
                return
            async with backend.membership(self._member(internal_url, public_url)) as membership:
                processes.tell_parent(
                    {
                        "event": "ready",
                        "worker": self.name,
                        "incarnation": self.incarnation,
                        "internal_url": internal_url,
                        "public_url": public_url,
                        "models": [model.key for model in self.models],
                        "pids": self._pids(),
                    }
                )
                log.info("ready", extra={"worker": self.name, "internal_url": internal_url, "public_url": public_url})
                while not stop.is_requested:
                    self._changed.clear()
                    await _first(self._changed.wait(), stop.requested())
                    await membership.update(self._member(internal_url, public_url))
                self.draining = True
                self._broadcast()
                processes.tell_parent({"event": "draining"})
            await stop.grace(settings.grace)

    def _member(self, internal_url: str, public_url: str | None) -> Member:
        return Member(
            role="worker",
            name=self.name,
            incarnation=self.incarnation,
            internal_url=internal_url,
            public_url=public_url,
            zone=self.settings.zone,
            version=VERSION,
            models={model.key: model.state.status for model in self.models},
        )

    def _pids(self) -> dict[str, list[int]]:
        running = {role: [k.child for k in kept if k.child] for role, kept in self._keepers.items()}
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
            self._keepers["redis"].append(keeper)
            async with keeping(keeper):
                path = str(redis_server.socket_of(Path(folder)))
                await _answers(path)
                yield path

    # Model processes

    def _model_keeper(self, model: ServedModel, redis: str, queue: Queue) -> Keeper:
        async def start() -> Child:
            model.process = f"{model.key}/{uuid.uuid4().hex[:8]}"
            await _patiently(queue.prepare(model.key))
            orders = model_process.Orders(
                model=model.text, process=model.process, redis=redis, log_level=self.settings.log_level
            )
            return await self._start("worker.model_process", model.process, orders)

        def heard(child: Child, event: dict[str, Any]) -> None:
            match event.get("event"):
                case "ready":
                    card = msgspec.convert(event["card"], ModelCard)
                    model.loaded(card, event["seconds_per_image"], self.settings.hang_timeout)
                    self._models_changed()
                case "failed":
                    model.reason = event["reason"]
                case "executed":
                    model.executed(event)

        async def buried(child: Child) -> None:
            metrics.bury(child.pid)
            model.died()
            self._models_changed()
            await self._reclaim(model, queue)
            if not keeper.is_stopping:
                self._metrics.deaths.labels("model").inc()
                if model.state.card is None and (model.reason or keeper.deaths >= _TRIES_TO_LOAD):
                    raise CannotStart(f"the model {model.text} does not load: {model.reason or 'its process dies'}")

        keeper = self._keeper(f"model {model.key}", start, heard=heard, buried=buried, stop_timeout=_MODEL_STOP)
        return keeper

    async def _reclaim(self, model: ServedModel, queue: Queue) -> None:
        """Take back what the dead process had claimed. With Redis gone too, the fronts submit it again."""
        try:
            moved, culprits = await queue.reclaim(model.key, model.process)
            for job in culprits:
                log.error("image quarantined: its process died each time", extra={"request_id": job.request_id})
                self._metrics.quarantined.labels(model.key).inc()
                await queue.reply(job, Reply(job=job.id, code=ModelCrashed.code, message=ModelCrashed.summary))
                if not job.heartbeat:
                    await queue.quarantine(model.key, job)
        except QueueUnavailable as error:
            log.warning("nothing reclaimed", extra={"model": model.key, "error": str(error)})
            return
        if moved or culprits:
            self._metrics.reclaimed.labels(model.key).inc(moved + len(culprits))
            log.warning("reclaimed", extra={"model": model.key, "dead": model.process, "jobs": moved})

    def _models_changed(self) -> None:
        for model in self.models:
            self._metrics.model_ready.labels(model.key).set(model.state.status == "ready")
        self._changed.set()
        self._broadcast()
        self._check_useful()

    def _check_useful(self) -> None:
        if all(model.state.status == "ready" for model in self.models):
            self._loaded.set()
            if len(self._fronts_ready) == self.settings.fronts:
                self._useful.set()

    # Fronts

    def _front_keeper(
        self,
        number: int,
        redis: str,
        public: socket.socket | None,
        internal: socket.socket,
        public_url: str | None,
        queue: Queue,
    ) -> Keeper:
        settings = self.settings
        current = ""

        async def start() -> Child:
            nonlocal current
            current = f"{self.name}-front{number}-{uuid.uuid4().hex[:8]}"
            sockets = [internal] + ([public] if public else [])
            orders = Orders(
                front=current,
                worker=self.name,
                incarnation=self.incarnation,
                public_url=public_url,
                redis=redis,
                public_sockets=[public.fileno()] if public else [],
                internal_sockets=[internal.fileno()],
                ticket_keys=str(settings.ticket_keys or ""),
                log_level=settings.log_level,
                limits=msgspec.convert(settings.model_dump(include=set(Limits.__struct_fields__)), Limits),
            )
            child = await self._start("worker.front", current, orders, pass_fds=tuple(s.fileno() for s in sockets))
            child.send(self._state())
            self._front_vitals[number] = Vitals(settings.load_timeout)
            return child

        def heard(child: Child, event: dict[str, Any]) -> None:
            match event.get("event"):
                case "ready":
                    self._front_vitals[number] = Vitals(settings.hang_timeout)
                    self._fronts_ready.add(number)
                    self._check_useful()
                case "alive" if number in self._fronts_ready:
                    self._front_vitals[number].spoke()

        async def buried(child: Child) -> None:
            self._fronts_ready.discard(number)
            metrics.bury(child.pid)
            if not keeper.is_stopping:
                self._metrics.deaths.labels("front").inc()
            try:
                for model in self.models:
                    self._metrics.abandoned.labels(model.key).inc(await queue.abandon(model.key, current))
                await queue.forget_front(current)
            except QueueUnavailable:
                log.info("nothing to clean up after a front: the queue is away", extra={"front": current})

        keeper = self._keeper(
            f"front {number}", start, heard=heard, buried=buried, stop_timeout=settings.drain_timeout + 5
        )
        return keeper

    async def _start(self, module: str, name: str, orders: msgspec.Struct, *, pass_fds: tuple[int, ...] = ()) -> Child:
        first = json.loads(msgspec.json.encode(orders))
        return await Child.start(name, [sys.executable, "-m", module], orders=first, pass_fds=pass_fds)

    def _state(self) -> Mapping[str, Any]:
        state = NodeState(draining=self.draining, models={model.key: model.state for model in self.models})
        document: dict[str, Any] = json.loads(msgspec.json.encode(state))
        return document

    async def _tell_fronts(self) -> None:
        """Once a second, whatever else is slow: without a word from us they count as lost."""
        while True:
            self._broadcast()
            await asyncio.sleep(TICK)

    async def _watch(self, queue: Queue) -> None:
        """Once a second: look after the children, and keep idle models from looking dead."""
        redis = next(iter(self._keepers["redis"]), None)
        watch = Watch(queue, redis, self._metrics, hang_timeout=self.settings.hang_timeout)
        while True:
            await asyncio.sleep(TICK)
            changed = [model for model in self.models if model.tick(TICK)]
            for model in changed:
                log.warning("model", extra={"model": model.key, "status": model.state.status, "idle": model.state.idle})
            if changed:
                self._models_changed()
            for model, keeper in zip(self.models, self._keepers["model"], strict=True):
                watch.check("model", keeper, model.vitals or model.starting)
            for number, vitals in self._front_vitals.items():
                vitals.tick(TICK)
                watch.check("front", self._fronts[number], vitals)
            await watch.check_redis(self.models)

    def _broadcast(self) -> None:
        state = self._state()
        for keeper in self._fronts:
            if keeper.child is not None:
                keeper.child.send(state)


async def _first(*waits: Any) -> bool:
    """Wait for any of ``waits``; True when the first of them came."""
    tasks = [asyncio.ensure_future(w) for w in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return bool(tasks[0].done())
    finally:
        for task in tasks:
            task.cancel()


async def _patiently(work: Any) -> None:
    try:
        await work
    except QueueUnavailable as error:
        log.info("the queue is away; the model process prepares it", extra={"error": str(error)})


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


async def main(settings: WorkerSettings) -> int:
    """Run a worker until it is told to stop. Returns the exit code."""
    stop = service.Stop()
    stop.listen()
    logs.configure(settings.log_level, role="worker", instance=settings.name, pid=str(os.getpid()))
    code = 0
    try:
        async with service.background(
            *([service.hold_lifeline(service.lines_of_stdin())] if settings.lifeline else [])
        ):
            await Supervisor(settings).run(stop)
    except* (CannotStart, redis_server.NoRedisServer) as group:
        log.error("cannot start", extra={"error": str(_leaf(group))})
        code = 1
    return code


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
