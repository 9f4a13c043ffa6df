"""All that a node serves: what its settings name and what is published, from the first byte to the last job.

A version that is published is fetched, loaded and warmed beside those that already serve; one that is published no more
stays until another of its model is ready here, then takes no new requests, finishes what it has, and its processes end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from discovery import ValuesWatch
from discovery.publications import Publications
from shoal.keeper import Keeper, keeping
from shoal.metrics import SupervisorMetrics
from shoal.settings import WorkerSettings
from shoal.wire import ModelState
from worker import version_fetch
from worker.desired import Desired, desired, may_go, oldest_first
from worker.devices import Device
from worker.model_processes import ModelProcesses
from worker.models import manifest
from worker.models.catalogue import Specification
from worker.queue import Queue, QueueUnavailable
from worker.repository.cache import using
from worker.served_model import ModelProcess, ServedModel

log = logging.getLogger(__name__)

T = TypeVar("T")

_ALARMING = ("stalled", "restarting", "failed")
_DEPTH_INTERVAL = 0.1
_FETCH_PAUSE = 1.0
_FETCH_PAUSE_MOST = 300.0


class CannotStart(Exception):
    """The node cannot become useful: what it was told to serve does not load."""


class ServedModels:
    """The model versions of one node. ``serve`` is its whole life.

    ``changed`` is told of every change of a status, ``keep`` makes a keeper of a child, and ``is_asked_for`` knows
    whether a front may have requests for a version.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        devices: Sequence[Device],
        queue: Queue,
        redis: str,
        cache: Path,
        supervisor_metrics: SupervisorMetrics,
        *,
        changed: Callable[[], None],
        keep: Callable[..., Keeper],
        is_asked_for: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._devices = devices
        self._queue = queue
        self._cache = cache
        self._changed = changed
        self._is_asked_for = is_asked_for
        self._fixed = [self._fixed_model(text) for text in settings.models]
        self._served = {model.key: model for model in self._fixed}
        self._desired: dict[str, Desired] = {}
        self._group: asyncio.TaskGroup | None = None
        self._fetches = asyncio.Semaphore(version_fetch.MOST_AT_ONCE)
        self._released = asyncio.Event()
        self._processes = ModelProcesses(
            settings,
            queue,
            redis,
            supervisor_metrics,
            keep=keep,
            changed=self._status_changed,
            gave_up=self._gave_up,
        )

    def __repr__(self) -> str:
        return f"<ServedModels {list(self._served.values())}>"

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._served.values()))

    def _fixed_model(self, text: str) -> ServedModel:
        return ServedModel(Specification.parse(text), self._devices, load_timeout=self._settings.load_timeout)

    @property
    def keys(self) -> list[str]:
        return list(self._served)

    @property
    def states(self) -> dict[str, ModelState]:
        """What the fronts are told, of all versions that may still get requests."""
        return {model.key: model.state for model in self if not model.is_hidden}

    @property
    def processes(self) -> list[ModelProcess]:
        return [process for model in self for process in model.processes]

    @property
    def keepers(self) -> list[Keeper]:
        return [process.keeper for process in self.processes if process.keeper]

    @property
    def are_settled(self) -> bool:
        """Whether everything that was asked for is ready, or is known to fail."""
        return all(model.is_settled for model in self) and set(self._desired) <= set(self._served)

    async def serve(self, watch: ValuesWatch, worker: str) -> None:
        """Serve, as the worker of that name, until cancelled.

        Raises ``CannotStart`` when a model of the settings does not load.
        """
        publications = Publications()
        async with asyncio.TaskGroup() as group:
            self._group = group
            for model in self._fixed:
                group.create_task(self._live(model))
            index = watch.index
            while True:
                if watch.values is not None:
                    publications.settle(watch.values)
                    wanted = desired(publications, worker, self._settings.zone)
                    self._desired = {key: version for key, version in wanted.items() if not self._is_fixed(key)}
                    self.reconcile()
                    self._changed()
                await watch.changed(index)
                index = watch.index

    def _is_fixed(self, key: str) -> bool:
        return any(model.key == key for model in self._fixed)

    def reconcile(self) -> None:
        """Start what is desired and not served, and retire what is served and may go.

        What has failed starts again when it is published as lying elsewhere.
        """
        for key in oldest_first(self._desired.keys() - self._served.keys()):
            self._start(self._desired[key])
        ready = {model.key for model in self if model.state.status == "ready"}
        for model in self:
            if model.desired is None or model.retired.is_set():
                continue
            wanted = self._desired.get(model.key)
            if wanted is None:
                goes = model.has_failed or model.card is None or may_go(model.key, self._desired, ready)
            else:
                goes = wanted.digest != model.desired.digest or (model.has_failed and wanted != model.desired)
            if goes:
                log.info("model retired", extra={"model": model.key})
                model.retired.set()

    def _start(self, desired: Desired) -> None:
        assert self._group is not None
        log.info("model wanted", extra={"model": desired.key, "digest": desired.digest})
        model = self._served[desired.key] = ServedModel(
            Specification(desired.model, desired.version),
            self._devices,
            load_timeout=self._settings.load_timeout,
            desired=desired,
        )
        self._group.create_task(self._live(model))

    def tick(self, seconds: float) -> None:
        """Time has passed."""
        changed = [model for model in self if model.tick(seconds)]
        for model in changed:
            status, idle = model.state.status, model.state.idle
            level = logging.WARNING if status in _ALARMING else logging.INFO
            log.log(level, "model", extra={"model": model.key, "status": status, "idle": idle})
        if changed:
            self._status_changed()

    def _status_changed(self) -> None:
        for model in self:
            model.note()
        if self._group is not None:
            self.reconcile()
        self._changed()

    # The life of one version

    async def _live(self, model: ServedModel) -> None:
        with ExitStack() as held:
            if model.desired is None or await self._is_here(model, model.desired, held):
                for process in model.processes:
                    process.keeper = self._processes.keeper(model, process)
                async with keeping(*(process.keeper for process in model.processes if process.keeper)):
                    await model.retired.wait()
                    await self._take_leave(model)
        await model.retired.wait()
        await self._forget(model)  # while its key is taken: the next one of that number has the same queue
        del self._served[model.key]
        self._release(model)
        log.info("model gone", extra={"model": model.key})
        self._status_changed()

    async def _is_here(self, model: ServedModel, desired: Desired, held: ExitStack) -> bool:
        """Wait until the version can be loaded; its folder is ``held`` then. False when it is retired or fails."""
        if not await self._fetched(model, desired):
            return False
        with suppress(FileNotFoundError):
            held.enter_context(using(Path(model.specification.folder)))
        return await self._has_room(model)

    async def _fetched(self, model: ServedModel, desired: Desired) -> bool:
        """Wait until the version's folder is here, as published. False when it is retired first, or never will be."""
        pause = _FETCH_PAUSE
        while event := await _unless(model.retired, version_fetch.fetch(self._orders(desired), self._fetches)):
            if event["event"] == "fetched":
                model.specification = replace(model.specification, folder=event["folder"])
                model.recover()
                return True
            self._fail(model, f"cannot be fetched: {event['reason']}")
            if event["event"] == "refused" or not await _unless(model.retired, asyncio.sleep(pause, True)):
                return False
            pause = min(2 * pause, _FETCH_PAUSE_MOST)
        return False

    def _orders(self, desired: Desired) -> dict[str, Any]:
        return {
            "source": desired.source,
            "digest": desired.digest,
            "cache": str(self._cache),
            "most_bytes": self._settings.model_cache_bytes,
            "timeout": self._settings.load_timeout,
            "keep": [model.desired.digest for model in self if model.desired],
        }

    async def _has_room(self, model: ServedModel) -> bool:
        """Wait until the memory that its manifest asks for is free here. False when it is retired first."""
        try:
            needed = manifest.read(Path(model.specification.folder)).memory_bytes
        except manifest.InvalidManifest as error:
            self._fail(model, str(error))
            return False
        while needed > (free := self._free_memory()):
            self._fail(model, f"does not fit: it needs {needed} bytes of memory, and {free:.0f} are free")
            self._released.clear()
            if await _unless(model.retired, self._released.wait()) is None:
                return False
        model.recover()
        model.memory_bytes = needed
        return True

    def _free_memory(self) -> float:
        """Bytes for models: by the settings, or else of the smallest GPU; a CPU has no limit of its own."""
        smallest = min(device.memory_bytes for device in self._devices)
        limit = self._settings.model_memory_bytes or smallest or float("inf")
        return limit - sum(model.memory_bytes for model in self)

    def _release(self, model: ServedModel) -> None:
        model.memory_bytes = 0
        self._released.set()

    async def _take_leave(self, model: ServedModel) -> None:
        """No new requests; those that were permitted come, and all are answered, before the processes end."""
        self._changed()
        if model.card is None:
            return
        await asyncio.sleep(self._settings.grace)
        model.is_hidden = True
        self._changed()
        deadline = time.monotonic() + self._settings.drain_timeout
        while self._is_asked_for(model.key) or await self._depth(model):
            if time.monotonic() > deadline:
                log.warning("model leaves requests unanswered", extra={"model": model.key})
                return
            await asyncio.sleep(_DEPTH_INTERVAL)

    async def _depth(self, model: ServedModel) -> int:
        try:
            return await self._queue.depth(model.key)
        except QueueUnavailable:
            return 1

    async def _forget(self, model: ServedModel) -> None:
        try:
            await self._queue.forget_model(model.key)
        except QueueUnavailable:
            log.info("nothing to clean up after a model: the queue is away", extra={"model": model.key})

    def _gave_up(self, model: ServedModel, reason: str) -> None:
        """It has never loaded, on any device. Raises ``CannotStart`` when the settings name it."""
        if model.desired is None:
            raise CannotStart(f"the model {model.key} does not load: {reason}")
        self._release(model)
        self._fail(model, f"does not load: {reason}")

    def _fail(self, model: ServedModel, reason: str) -> None:
        log.error("model failed", extra={"model": model.key, "reason": reason})
        model.fail(reason)
        self._status_changed()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives, or None when ``event`` comes first."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
