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
from contextlib import asynccontextmanager, nullcontext
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
POLLS_PER_SECOND = 200  # of one gateway, up to the longest interval
LONGEST_INTERVAL = 0.8  # a report is fresh for 2 s: long enough to lose one poll, and to ask again soon after
_SOON = 0.1
_LOST_SECONDS = 5.0  # without a word: nobody hurries to such a worker any more
_LOOK_SECONDS = 2.0
_OPENINGS = 16  # lines at once: a TLS handshake takes milliseconds of CPU, and hundreds at once would all be too late
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
        self._pollers: set[asyncio.Task[None]] = set()
        self._openings = asyncio.Semaphore(_OPENINGS)
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
            for polled in self._adopt(directory, others, group):
                await polled.wait()
            follower = group.create_task(self._follow(watch, gateways, directory, others, group))
            try:
                yield
            finally:
                follower.cancel()
                for poller in self._pollers:
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

    def _adopt(self, members: Directory, gateways: Directory, group: asyncio.TaskGroup) -> list[asyncio.Event]:
        """Returns for each worker that is new what is set when it was polled."""
        now, first_polls = time.monotonic(), list[asyncio.Event]()
        ours = self._subset.of(members.members, self._present(gateways, now))
        listed = {member.incarnation: member for member in members if member.incarnation in ours}
        self.elsewhere = {member.incarnation: member for member in members if member.incarnation not in ours}
        for incarnation, member in listed.items():
            if incarnation in self._workers:
                self._workers[incarnation].member = member
                self._workers[incarnation].vanished = None
            else:
                worker = self._workers[incarnation] = Worker(member, self._news)
                first_polls.append(asyncio.Event())
                poller = group.create_task(self._keep_polling(worker, first_polls[-1]))
                self._pollers.add(poller)
                poller.add_done_callback(self._pollers.discard)
        for incarnation in self._workers.keys() & self.elsewhere.keys():
            self._drop(incarnation)
        for incarnation, worker in self._workers.items():
            if incarnation not in listed and worker.vanished is None:
                worker.vanished = now
        return first_polls

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
        del self._workers[incarnation]
        self._news()
        self._count()

    async def _keep_polling(self, worker: Worker, polled: asyncio.Event) -> None:
        """Poll it as long as we use it, or wait for its answers."""
        key, line = worker.member.incarnation, Line(self._name, self._calls)
        try:
            await self._poll(worker, line)
            self._polled = time.monotonic()
            polled.set()
            await asyncio.sleep(random.random() * self._pause())  # noqa: S311 - not all in the same instant
            pause = 0.0
            while True:
                if worker.age > pause / 2:  # an answer may have brought a report
                    await self._poll(worker, line)
                self._polled = time.monotonic()
                if self._workers.get(key) is worker and self._is_over(worker):
                    self._drop(key)
                if self._workers.get(key) is not worker and not worker.is_awaited:
                    return
                await asyncio.sleep(self._rest(worker))
                pause = self._pause()
        finally:
            line.close()

    def _is_over(self, worker: Worker) -> bool:
        """Whether discovery has lost it, and it does not answer either, or discovery insists."""
        return worker.vanished is not None and (
            worker.state in ("unreachable", "silent") or time.monotonic() - worker.vanished > _VANISHED_SECONDS
        )

    def _pause(self) -> float:
        return max(self._interval, min(LONGEST_INTERVAL, len(self) / POLLS_PER_SECOND))

    def _rest(self, worker: Worker) -> float:
        """Seconds until it is polled again: a pause after it was heard, so soon when a poll was lost."""
        pause = self._pause()
        return pause if worker.age > _LOST_SECONDS else max(min(_SOON, pause), pause - worker.age)

    async def look_at(self, worker: Worker) -> None:
        """Ask one that has not reported how it is, without a share of its slots.

        Again while it says nothing: who hears that it is unreachable gives it up, and it may only be busy.
        """
        line, until = Line("", self._calls), time.monotonic() + _LOOK_SECONDS
        try:
            while True:
                if await self._ask(worker, line) or time.monotonic() > until:
                    return
                await asyncio.sleep(_SOON)
        finally:
            line.close()

    async def _poll(self, worker: Worker, line: Line) -> None:
        before = worker.state
        await self._ask(worker, line)
        if worker.state in ("ready", "ejected"):
            self._turned_up(worker)
        if worker.state != before:
            self._count()

    async def _ask(self, worker: Worker, line: Line) -> bool:
        """Whether it said how it is, or nobody listens there; else it may only be late."""
        was_ready = worker.state == "ready"
        try:
            async with nullcontext() if line.is_open else self._openings, asyncio.timeout(_POLL_TIMEOUT):
                status, body = await line.ask(worker.member.internal_url)
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise TimeoutError  # it is there, and cannot say: its queue is being replaced
            if status != HTTPStatus.OK:
                raise ValueError(f"it answers {status}")
            worker.settle(decode_report(body))
        except TimeoutError:
            worker.missed()
            log.info("worker slow to report", extra={"worker": worker.member.name})
            return False
        except (OSError, ValueError, msgspec.MsgspecError) as error:  # ValueError: no usable URL, or no worker there
            worker.refused()
            if was_ready:
                log.warning("worker unreachable", extra={"worker": worker.member.name, "error": repr(error)})
        return True

    def _count(self) -> None:
        counted = Counter(worker.state for worker in self)
        for state in STATES:
            self._metrics.workers.labels(state).set(counted[state])
