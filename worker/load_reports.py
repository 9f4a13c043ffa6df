"""The node's load reports: one for each gateway that asks, measured in the queue, at most a tenth of a second old."""

from __future__ import annotations

import time
from collections import Counter

from shoal.errors import NotReady
from shoal.wire import LoadReport, ModelLoad, ModelState, NodeState
from worker.jobs import Observed
from worker.queue import Queue, QueueUnavailable

_LIFETIME = 0.1
_STATE_LIFETIME = 3.0  # a supervisor that has not spoken for so long is hung


class LoadReports:
    """What one front reports, from what its supervisor said last and what the queue holds now.

    ``depths`` is what is known of the queues between two reports.
    """

    def __init__(
        self,
        queue: Queue,
        depths: Counter[str],
        *,
        worker: str,
        incarnation: str,
        public_url: str | None,
        capacity: int,
        caches: bool = False,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._incarnation = incarnation
        self._public_url = public_url
        self._capacity = capacity
        self.caches = caches
        self._told = float("-inf")
        self._reports: dict[str, LoadReport] = {}
        self.state = NodeState()
        self.depths = depths

    def __repr__(self) -> str:
        return f"<LoadReports of {self._worker}: {dict(self.depths)}>"

    def tell(self, state: NodeState) -> None:
        """Take what the supervisor says; a report from before does not say it."""
        self.state = state
        self._told = time.monotonic()
        self._reports.clear()

    @property
    def is_informed(self) -> bool:
        """Whether the supervisor has spoken lately."""
        return time.monotonic() - self._told < _STATE_LIFETIME

    async def report(self, gateway: str) -> LoadReport:
        """The load as ``gateway`` may use it. Raises ``NotReady`` without a queue."""
        report = self._reports.get(gateway)
        if report is None or time.monotonic() - report.measured > _LIFETIME:
            report = self._reports[gateway] = await self._measure(gateway)
        return report

    async def _measure(self, gateway: str) -> LoadReport:
        models = self.state.models
        measured = time.monotonic()
        try:
            loads = await self._queue.observe(list(models), gateway=gateway, capacity=self._capacity)
        except QueueUnavailable as error:
            raise NotReady("The node's queue does not answer.") from error
        for key, load in zip(models, loads, strict=True):
            self.depths[key] = load.depth
        return LoadReport(
            worker=self._worker,
            incarnation=self._incarnation,
            measured=measured,
            public_url=self._public_url,
            draining=self.state.draining,
            served=self.state.served,
            models={key: self._load(key, models[key], load) for key, load in zip(models, loads, strict=True)},
        )

    def _load(self, key: str, state: ModelState, load: Observed) -> ModelLoad:
        return ModelLoad(
            status=state.status if self.is_informed else "failed",
            queue_depth=load.depth,
            bulk_depth=load.bulk_depth,
            capacity=self._capacity,
            slots=load.slots,
            bulk_slots=load.bulk_slots,
            arrived=load.arrived,
            seconds_per_image=state.seconds_per_image,
            idle=state.idle,
            digest=state.card.digest if state.card else "",
            task=state.card.task if state.card else "",
            reason=state.reason,
            caches=self.caches and state.card is not None and state.card.cacheable,
            processes=state.processes,
            images=state.images,
            busy=state.busy,
        )
