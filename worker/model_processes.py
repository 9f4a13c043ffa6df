"""The processes of model versions: kept alive, listened to, and when one dies, what it had claimed is taken back."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from shoal import metrics
from shoal.errors import ModelCrashed
from shoal.keeper import Keeper
from shoal.metrics import SupervisorMetrics
from shoal.processes import Child
from shoal.settings import WorkerSettings
from shoal.wire import ModelCard, Reply
from worker import model_process
from worker.queue import Queue, QueueUnavailable
from worker.served_model import ModelProcess, ServedModel

log = logging.getLogger(__name__)

_STOP = 30.0
_TRIES_TO_LOAD = 3


class ModelProcesses:
    """Those of one node.

    ``changed`` hears of every change of a process, and ``gave_up``, with the reason, of a version that has never loaded
    on any device. ``keep`` makes a keeper of a child.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        queue: Queue,
        redis: str,
        supervisor_metrics: SupervisorMetrics,
        *,
        keep: Callable[..., Keeper],
        changed: Callable[[], None],
        gave_up: Callable[[ServedModel, str], None],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._redis = redis
        self._metrics = supervisor_metrics
        self._keep = keep
        self._changed = changed
        self._gave_up = gave_up

    def __repr__(self) -> str:
        return f"<ModelProcesses over {self._redis}>"

    def keeper(self, model: ServedModel, process: ModelProcess) -> Keeper:
        """A keeper, not yet running, of one process of a version."""

        async def start() -> Child:
            process.begin()
            await _patiently(self._queue.prepare(model.key))
            orders = model_process.Orders(
                specification=model.specification,
                process=process.name,
                device=process.device.name,
                redis=self._redis,
                log_level=self._settings.log_level,
            )
            return await Child.start(
                process.name,
                [sys.executable, "-m", "worker.model_process"],
                orders=json.loads(msgspec.json.encode(orders)),
                environ=process.device.environ,
            )

        return self._keep(
            f"model {model.key} on {process.device.name}",
            start,
            heard=partial(self._heard, model, process),
            buried=partial(self._buried, model, process),
            stop_timeout=_STOP,
        )

    def _heard(self, model: ServedModel, process: ModelProcess, child: Child, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "ready":
                model.card = msgspec.convert(event["card"], ModelCard)
                process.loaded(model.card, event["seconds_per_image"], self._settings.hang_timeout)
                self._metrics.quarantined.labels(model.key)  # from 0, so that the first one is an increase
                self._changed()
            case "failed":
                process.reason = event["reason"]
            case "executed" if model.card is not None:
                process.executed(event, model.card.max_batch_size)

    async def _buried(self, model: ServedModel, process: ModelProcess, child: Child) -> None:
        metrics.bury(child.pid)
        process.died()
        await self._reclaim(model, process)
        assert process.keeper is not None
        if not process.keeper.is_stopping:
            self._metrics.deaths.labels("model").inc()
            if not process.has_loaded and (process.reason or process.keeper.deaths >= _TRIES_TO_LOAD):
                await self._give_up(model, process)
        self._changed()

    async def _give_up(self, model: ServedModel, process: ModelProcess) -> None:
        """A process that has never loaded is not started again."""
        assert process.keeper is not None
        process.reason = process.reason or "its process dies"
        await process.keeper.stop()
        if all(other.reason for other in model.processes):
            self._gave_up(model, process.reason)

    async def _reclaim(self, model: ServedModel, process: ModelProcess) -> None:
        """Take back what the dead process had claimed. With Redis gone too, the fronts submit it again."""
        try:
            moved, culprits = await self._queue.reclaim(model.key, process.name)
            for job in culprits:
                log.error("image quarantined: its process died each time", extra={"request_id": job.request_id})
                self._metrics.quarantined.labels(model.key).inc()
                await self._queue.reply(job, Reply(job=job.id, code=ModelCrashed.code, message=ModelCrashed.summary))
                if not job.heartbeat:
                    await self._queue.quarantine(model.key, job)
        except QueueUnavailable as error:
            log.warning("nothing reclaimed", extra={"model": model.key, "error": str(error)})
            return
        if moved or culprits:
            self._metrics.reclaimed.labels(model.key).inc(moved + len(culprits))
            log.warning("reclaimed", extra={"model": model.key, "dead": process.name, "jobs": moved})


async def _patiently(work: Any) -> None:
    try:
        await work
    except QueueUnavailable as error:
        log.info("the queue is away; the model process prepares it", extra={"error": str(error)})
