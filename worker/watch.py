"""Ends the children that live and do not work: only then may their jobs be taken back and others be started."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

from shoal.keeper import Keeper
from shoal.metrics import SupervisorMetrics
from worker.queue import Queue, QueueUnavailable
from worker.served_model import ServedModel
from worker.vitals import Vitals

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks."""

_HEARTBEAT_BYTES = 1 << 30  # an empty queue takes one job, however large


class Watch:
    """The looks of one supervisor. ``redis`` is the child, or None where the node's Redis is not ours."""

    def __init__(self, queue: Queue, redis: Keeper | None, metrics: SupervisorMetrics, *, hang_timeout: float) -> None:
        self._queue = queue
        self._redis = redis
        self._metrics = metrics
        self._redis_vitals = Vitals(hang_timeout)

    def __repr__(self) -> str:
        return f"<Watch, Redis silent for {self._redis_vitals.silent:g} s>"

    def check(self, role: str, keeper: Keeper, vitals: Vitals | None) -> None:
        """End the child if it is hung."""
        if vitals is None or not vitals.is_hung or keeper.child is None or keeper.child.returncode is not None:
            return
        log.error("hung, so killed", extra={"child": keeper.name, "child_pid": keeper.child.pid})
        self._metrics.hung.labels(role).inc()
        keeper.child.signal(signal.SIGKILL)

    async def check_redis(self, models: Sequence[ServedModel]) -> None:
        """Send idle models a heartbeat through Redis, and end it if it is hung."""
        self._redis_vitals.tick(TICK)
        if await self._answers(models):
            self._redis_vitals.spoke()
        elif self._redis is not None and self._redis_vitals.is_hung:
            self.check("redis", self._redis, self._redis_vitals)
            self._redis_vitals.spoke()

    async def _answers(self, models: Sequence[ServedModel]) -> bool:
        try:
            async with asyncio.timeout(TICK):
                await self._queue.run_id()
                for model in models:
                    if job := model.heartbeat():
                        await self._queue.submit(model.key, job, capacity=1, capacity_bytes=_HEARTBEAT_BYTES)
        except (QueueUnavailable, TimeoutError):
            return False
        return True
