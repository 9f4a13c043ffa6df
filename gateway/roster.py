"""The workers that a gateway uses, each polled over its own line, as the directory names them.

Discovery says who exists; a poll of every worker, at most a second apart, says how it is. A worker takes
requests while its report is fresh, so a dead one leaves at the next poll whatever discovery still believes,
and one that discovery has lost is kept for a while if it still answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import msgspec

from discovery import Directory, Member, Watch
from gateway.known_worker import STATES, Worker, decode_report
from gateway.line import Line
from gateway.subsets import Subset
from shoal.metrics import GatewayMetrics
from shoal.tls import Calls

log = logging.getLogger(__name__)

_POLL_TIMEOUT = 0.75
_VANISHED_SECONDS = 60.0
POLLS_PER_SECOND = 200  # of one gateway, as long as a report stays fresh when one poll is missed
LONGEST_INTERVAL = 0.8
_SOON = 0.1
_LATE_SECONDS = 10.0


class Roster:
    """All workers that the gateway uses, by incarnation. Construct with ``Roster.follow``.

    ``elsewhere`` are the members that it leaves to other gateways. ``news`` is called when a worker comes, goes or
    offers something else, and ``turned_up`` whenever one has answered.
    """

    def __init__(
        self,
        name: str,
        calls: Calls,
        interval: float,
        metrics: GatewayMetrics,
        subset: Subset,
        *,
        news: Callable[[], None],
        turned_up: Callable[[Worker], None],
    ) -> None:
        self._name = name
        self._calls = calls
        self._interval = interval
        self._metrics = metrics
        self._subset = subset
        self._news = news
        self._turned_up = turned_up
        self._workers: dict[str, Worker] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}
        self._gateways: dict[str, float | None] = {}  # when each vanished
        self.elsewhere: dict[str, Member] = {}
        self._polled = time.monotonic()

    def __repr__(self) -> str:
        ready = sum(worker.state == "ready" for worker in self)
        return f"<Roster {ready} of {len(self._workers)} workers ready, {len(self.elsewhere)} elsewhere>"

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def is_polling(self) -> bool:
        """Whether polls come to an end: an answer, or the knowledge that there is none."""
        return not self._workers or time.monotonic() - self._polled < _LATE_SECONDS

    def named(self, incarnation: str) -> Worker | None:
        """The worker of that incarnation; one that is elsewhere has no report."""
        known = self._workers.get(incarnation)
        if known is not None and known.incarnation == incarnation:
            return known
        if incarnation in self.elsewhere:
            return Worker(self.elsewhere[incarnation])
        return next((worker for worker in self if worker.incarnation == incarnation), None)

    @asynccontextmanager
    async def following(self, watch: Watch, gateways: Watch | None) -> AsyncIterator[None]:
        """Follow both directories. Entering waits for the first polls."""
        async with asyncio.TaskGroup() as group:
            directory, others = watch.directory, gateways.directory if gateways else Directory("gateway")
            self._adopt(directory, others, group)
            await asyncio.gather(*(self._poll_once(worker) for worker in list(self)))
            follower = group.create_task(self._follow(watch, gateways, directory, others, group))
            try:
                yield
            finally:
                follower.cancel()
                for poller in self._pollers.values():
                    poller.cancel()

    async def _follow(
        self, watch: Watch, gateways: Watch | None, workers: Directory, others: Directory, group: asyncio.TaskGroup
    ) -> None:
        """Whatever changes first, and once in a while for a gateway whose time is over."""
        while True:
            waiting = [asyncio.ensure_future(watch.changed(workers.index))]
            if gateways:
                waiting.append(asyncio.ensure_future(gateways.changed(others.index)))
            try:
                await asyncio.wait(waiting, timeout=_VANISHED_SECONDS / 2, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()
            if watch.directory.index != workers.index:
                log.info("directory", extra={"directory": repr(watch.directory)})
            workers, others = watch.directory, gateways.directory if gateways else others
            self._adopt(workers, others, group)

    def _adopt(self, members: Directory, gateways: Directory, group: asyncio.TaskGroup) -> None:
        now = time.monotonic()
        ours = self._subset.of(members.members, self._present(gateways, now))
        listed = {member.incarnation: member for member in members if member.incarnation in ours}
        self.elsewhere = {member.incarnation: member for member in members if member.incarnation not in ours}
        for incarnation, member in listed.items():
            if incarnation in self._workers:
                self._workers[incarnation].member = member
                self._workers[incarnation].vanished = None
            else:
                worker = self._workers[incarnation] = Worker(member, self._news)
                self._pollers[incarnation] = group.create_task(self._keep_polling(worker))
        for incarnation in self._workers.keys() & self.elsewhere.keys():
            self._pollers[incarnation].cancel()
            self._drop(incarnation)
        for incarnation, worker in self._workers.items():
            if incarnation not in listed and worker.vanished is None:
                worker.vanished = now

    def _present(self, gateways: Directory, now: float) -> list[str]:
        """The gateways by name. One that vanished counts for a while: it may be back, and discovery may be wrong."""
        listed = {member.name for member in gateways}
        for name in {*self._gateways, *listed}:
            since = self._gateways.get(name)
            self._gateways[name] = None if name in listed else since or now
        self._gateways = {
            name: since for name, since in self._gateways.items() if since is None or now - since < _VANISHED_SECONDS
        }
        return list(self._gateways)

    def _drop(self, incarnation: str) -> None:
        del self._workers[incarnation], self._pollers[incarnation]
        self._news()
        self._count()

    async def _keep_polling(self, worker: Worker) -> None:
        key, line = worker.member.incarnation, Line(self._name, self._calls)
        pause = random.random() * self._pause()  # noqa: S311 - not all in the same instant
        try:
            while True:
                if worker.age > pause / 2:  # an answer may have brought a report
                    await self._poll(worker, line)
                self._polled = time.monotonic()
                if worker.vanished is not None and (
                    worker.state in ("unreachable", "silent") or time.monotonic() - worker.vanished > _VANISHED_SECONDS
                ):
                    self._drop(key)
                    return
                await asyncio.sleep(pause)
                pause = self._pause() if worker.age < _POLL_TIMEOUT + pause else _SOON
        finally:
            line.close()

    def _pause(self) -> float:
        return max(self._interval, min(LONGEST_INTERVAL, len(self) / POLLS_PER_SECOND))

    async def _poll_once(self, worker: Worker) -> None:
        line = Line(self._name, self._calls)
        try:
            await self._poll(worker, line)
        finally:
            line.close()

    async def look_at(self, worker: Worker) -> None:
        """Ask one that is elsewhere how it is, without a share of its slots."""
        line = Line("", self._calls)
        try:
            await self._ask(worker, line)
        finally:
            line.close()

    async def _poll(self, worker: Worker, line: Line) -> None:
        before = worker.state
        await self._ask(worker, line)
        if worker.state in ("ready", "ejected"):
            self._turned_up(worker)
        if worker.state != before:
            self._count()

    async def _ask(self, worker: Worker, line: Line) -> None:
        was_ready = worker.state == "ready"
        try:
            async with asyncio.timeout(_POLL_TIMEOUT):
                status, body = await line.ask(worker.member.internal_url)
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise TimeoutError  # it is there, and cannot say: its queue is being replaced
            if status != HTTPStatus.OK:
                raise ValueError(f"it answers {status}")
            worker.settle(decode_report(body))
        except TimeoutError:
            worker.missed()
            log.info("worker slow to report", extra={"worker": worker.member.name})
        except (OSError, ValueError, msgspec.MsgspecError) as error:  # ValueError: no usable URL, or no worker there
            worker.refused()
            if was_ready:
                log.warning("worker unreachable", extra={"worker": worker.member.name, "error": repr(error)})

    def _count(self) -> None:
        counted = Counter(worker.state for worker in self)
        for state in STATES:
            self._metrics.workers.labels(state).set(counted[state])
