"""The courier of a node, as the supervisor keeps it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from shoal import metrics
from shoal.keeper import Keeper
from shoal.metrics import SupervisorMetrics
from shoal.processes import Child
from shoal.settings import WorkerSettings
from worker.courier import Orders
from worker.vitals import Vitals


class CourierChild:
    """One courier, or none where no asynchronous jobs are kept."""

    def __init__(
        self,
        settings: WorkerSettings,
        redis: str,
        supervisor_metrics: SupervisorMetrics,
        *,
        keep: Callable[..., Keeper],
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._metrics = supervisor_metrics
        self.vitals = Vitals(settings.load_timeout)
        wanted = settings.jobs_kept > 0
        timeout = settings.drain_timeout + 5
        self.keepers = (
            [keep("courier", self._start, heard=self._heard, buried=self._buried, stop_timeout=timeout)]
            if wanted
            else []
        )

    def __repr__(self) -> str:
        return f"<CourierChild {self.keepers}>"

    def tell(self) -> None:
        """Say something, once a second: it answers."""
        for keeper in self.keepers:
            if keeper.child is not None:
                keeper.child.send({})

    async def _start(self) -> Child:
        settings = self._settings
        orders = Orders(
            redis=self._redis,
            log_level=settings.log_level,
            drain_timeout=settings.drain_timeout,
            hosts=settings.webhook_hosts,
            networks=settings.webhook_networks,
            secret=str(settings.webhook_secret or ""),
            timeout=settings.webhook_timeout,
            attempts=settings.webhook_attempts,
            pause=settings.webhook_pause,
        )
        child = await Child.start(
            "courier", [sys.executable, "-m", "worker.courier"], orders=json.loads(msgspec.json.encode(orders))
        )
        self.vitals = Vitals(settings.load_timeout)
        return child

    def _heard(self, child: Child, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "ready":
                self.vitals = Vitals(self._settings.hang_timeout)
            case "alive":
                self.vitals.spoke()

    async def _buried(self, child: Child) -> None:
        metrics.bury(child.pid)
        if not self.keepers[0].is_stopping:
            self._metrics.deaths.labels("courier").inc()
