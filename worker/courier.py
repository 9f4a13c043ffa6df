"""The process that sees to asynchronous jobs: it sends their webhooks, ends those that are late, and counts them.

python -m worker.courier     (the supervisor starts it and writes its orders to standard input)

All that it knows is in Redis, so the next one goes on where a killed one stopped: an attempt that it did not live to
write down is made again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from shoal import http, logs, processes, service
from shoal.metrics import CourierMetrics
from worker.job_answers import webhook_of
from worker.job_records import Delivery, JobRecords, Record, name_of
from worker.redis_client import QueueUnavailable
from worker.webhooks import Sender

log = logging.getLogger("worker.courier")

_WAIT = 60.0  # for events, each of which may bring a deadline or a webhook nearer
_RETRY = 0.1
_AT_ONCE = 16
_LONGEST_PAUSE = 300.0


class Orders(msgspec.Struct, frozen=True):
    """The first line on standard input."""

    redis: str
    log_level: str
    drain_timeout: float
    hosts: tuple[str, ...]
    networks: tuple[str, ...]
    secret: str
    timeout: float
    attempts: int
    pause: float


class Courier:
    """Keeps what was promised with every 202 of a node. Without a ``sender`` there are no webhooks."""

    def __init__(
        self, records: JobRecords, sender: Sender | None, metrics: CourierMetrics, *, attempts: int, pause: float
    ) -> None:
        self._records = records
        self._sender = sender
        self._metrics = metrics
        self._attempts = attempts
        self._pause = pause
        self._sending: set[str] = set()
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Courier sending {len(self._sending)}>"

    async def work(self) -> None:
        """Endless. What Redis loses is lost, and its absence is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            while True:
                self._woken.clear()
                try:
                    seconds = await self._begin(group)
                except QueueUnavailable as error:
                    log.warning("queue unavailable", extra={"error": str(error)})
                    seconds = _RETRY
                try:
                    async with asyncio.timeout(seconds):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def finished(self) -> None:
        """Wait until no job is queued and no webhook is to be sent."""
        await self._idle.wait()

    async def _count(self) -> None:
        """Count what happens to jobs, and look at them whenever something does."""
        while True:
            try:
                events = await self._records.events(_WAIT)
                await self._records.counted(events)
            except QueueUnavailable:
                await asyncio.sleep(_RETRY)
                continue
            for event in events:
                self._metrics.jobs.labels(event.model, event.status).inc()
            self._woken.set()

    async def _begin(self, group: asyncio.TaskGroup) -> float:
        """Send what is due. Returns the seconds until there is something to do again."""
        due = await self._records.due(2 * _AT_ONCE)
        self._metrics.queued.set(due.queued)
        self._metrics.waiting.set(due.waiting)
        if due.queued or due.waiting:
            self._idle.clear()
        else:
            self._idle.set()
        nearest = [_WAIT] if due.next_deadline is None else [_WAIT, due.next_deadline]
        for id, seconds in due.webhooks:
            if id in self._sending or len(self._sending) >= _AT_ONCE:
                continue  # its end wakes us
            if seconds > 0:
                nearest.append(seconds)
                continue
            self._sending.add(id)
            group.create_task(self._deliver(id))
        return max(0.001, min(nearest))

    async def _deliver(self, id: str) -> None:
        try:
            record = await self._records.find(id)
            if record is not None and record.delivery == "waiting":
                await self._attempt(record)
        except QueueUnavailable:
            await asyncio.sleep(_RETRY)
        finally:
            self._sending.discard(id)
            self._woken.set()

    async def _attempt(self, record: Record) -> None:
        id = record.head.id
        body = http.dumps(webhook_of(record)).encode()
        said = await self._sender.send(record.head.webhook, name_of(id), body) if self._sender else "url_disabled"
        delivery, pause = outcome(said, record.attempts, most=self._attempts, pause=self._pause)
        self._metrics.webhooks.labels("retried" if delivery == "waiting" else delivery).inc()
        extra = {"request_id": record.head.about["request_id"], "answer": said, "outcome": delivery}
        log.info("webhook", extra=extra)
        await self._records.attempted(id, delivery, said, pause)


def outcome(said: str, attempts: int, *, most: int, pause: float) -> tuple[Delivery, float]:
    """What becomes of a webhook after an attempt, with ``attempts`` before it, and the seconds until the next one.

    Any 2xx has it delivered, 410 wants it no more, and whatever else is tried again, until it was tried ``most`` times.
    """
    status = int(said) if said.isdigit() else 0
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return "delivered", 0.0
    if status == HTTPStatus.GONE or attempts + 1 >= most:
        return "failed", 0.0
    longest = min(_LONGEST_PAUSE, pause * 2 ** min(attempts, 32))
    return "waiting", longest * random.uniform(0.5, 1.0)  # noqa: S311


async def _say_alive(lines: AsyncIterator[bytes]) -> None:
    """Answer every line of the supervisor; without it there is no node."""
    async for _ in lines:
        processes.tell_parent({"event": "alive"})
    os._exit(1)


async def _main() -> int:
    stop = service.Stop()
    stop.listen()
    lines = service.lines_of_stdin()
    orders = msgspec.json.decode(await anext(lines), type=Orders)
    logs.configure(orders.log_level, role="courier", pid=str(os.getpid()))
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(JobRecords.connect(orders.redis))
        sender = None
        if orders.secret:
            opened = Sender.open(
                hosts=orders.hosts, networks=orders.networks, secret=Path(orders.secret), timeout=orders.timeout
            )
            sender = await stack.enter_async_context(opened)
        metrics = CourierMetrics(CollectorRegistry())
        courier = Courier(records, sender, metrics, attempts=orders.attempts, pause=orders.pause)
        await stack.enter_async_context(service.background(_say_alive(lines), courier.work()))
        processes.tell_parent({"event": "ready"})
        await stop.requested()
        try:
            async with asyncio.timeout(orders.drain_timeout):
                await courier.finished()
        except TimeoutError:
            log.warning("jobs are lost: they did not end in time")
    return 0


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(service.run(_main()))
