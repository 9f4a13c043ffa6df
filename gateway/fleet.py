"""The gateway's own view of the workers: who discovery names, what each reports, and whom to choose.

Discovery says who exists; a poll of every worker, at most a second apart, says how it is. A worker takes
requests while its report is fresh, so a dead one leaves at the next poll whatever discovery still believes,
and one that discovery has lost is kept for a while if it still answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout

from discovery import Member, Watch
from gateway.balancers import Balancer
from shoal.errors import NoWorker, QueueFull, UnknownModel
from shoal.metrics import GatewayMetrics
from shoal.wire import LoadReport, ModelLoad, model_key

log = logging.getLogger(__name__)

_POLL_TIMEOUT = 1.0
_FRESH_SECONDS = 2.0
_VANISHED_SECONDS = 60.0

Excluded = frozenset[str]


class Worker:
    """One incarnation of a worker: its member, its last load report, and what we sent it since."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.report: LoadReport | None = None
        self.reachable = False
        self._heard = float("-inf")
        self._sent: dict[str, int] = {}
        self.vanished: float | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.member.name} {self.state}>"

    @property
    def incarnation(self) -> str:
        """As it says itself: a static member's is known only from its report."""
        return self.report.incarnation if self.report else self.member.incarnation

    @property
    def public_url(self) -> str | None:
        return self.member.public_url or (self.report.public_url if self.report else None)

    @property
    def state(self) -> str:
        if not self.reachable or time.monotonic() - self._heard > _FRESH_SECONDS:
            return "unreachable"
        return "draining" if self.report and self.report.draining else "ready"

    def settle(self, report: LoadReport, *, whole: bool = True) -> None:
        """Take a report: its absolute numbers replace what we had guessed since the last one."""
        for key in report.models:
            self._sent.pop(key, None)
        if not whole and self.report:
            models = {**self.report.models, **report.models}
            report = msgspec.structs.replace(self.report, models=models, draining=report.draining)
        self.report = report
        self._heard = time.monotonic()
        self.reachable = True

    def failed(self) -> None:
        """No connection, or no answer: out until the next poll succeeds."""
        self.reachable = False

    def load(self, key: str) -> ModelLoad | None:
        return self.report.models.get(key) if self.report else None

    def reserve(self, key: str, count: int) -> None:
        self._sent[key] = self._sent.get(key, 0) + count

    def depth(self, key: str) -> int:
        load = self.load(key)
        return (load.queue_depth if load else 0) + self._sent.get(key, 0)

    def has_room(self, key: str) -> bool:
        load = self.load(key)
        return load is not None and self.depth(key) < load.capacity


@dataclass(frozen=True)
class Choice:
    """A worker for a request, as the balancer sees it. ``key`` is the resolved model version."""

    worker: Worker
    key: str

    @property
    def name(self) -> str:
        return self.worker.member.name

    @property
    def expected_wait(self) -> float:
        load = self.worker.load(self.key)
        return self.worker.depth(self.key) * (load.seconds_per_image if load else 0.0)


class Fleet:
    """All workers that the gateway knows. Construct with ``Fleet.follow``."""

    def __init__(self, session: ClientSession, balancer: Balancer, interval: float, metrics: GatewayMetrics) -> None:
        self._session = session
        self._balancer = balancer
        self._interval = interval
        self._metrics = metrics
        self._workers: dict[str, Worker] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, None] = {}  # every model version that was ever ready here, in order
        self._turned_up = asyncio.Event()

    def __repr__(self) -> str:
        ready = sum(w.state == "ready" for w in self._workers.values())
        return f"<Fleet {ready} of {len(self._workers)} workers ready>"

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    @classmethod
    @asynccontextmanager
    async def follow(
        cls, watch: Watch, session: ClientSession, balancer: Balancer, *, interval: float, metrics: GatewayMetrics
    ) -> AsyncIterator[Fleet]:
        """Follow the directory and poll its members. Entering waits until each was polled once."""
        fleet = cls(session, balancer, interval, metrics)
        async with asyncio.TaskGroup() as group:
            directory = watch.directory
            fleet._adopt(directory, group)
            await asyncio.gather(*(fleet._poll(w) for w in list(fleet._workers.values())))
            follower = group.create_task(fleet._follow(watch, directory.index, group))
            try:
                yield fleet
            finally:
                follower.cancel()
                for poller in fleet._pollers.values():
                    poller.cancel()

    async def _follow(self, watch: Watch, index: int, group: asyncio.TaskGroup) -> None:
        while True:
            directory = await watch.changed(index)
            index = directory.index
            log.info("directory", extra={"directory": repr(directory)})
            self._adopt(directory, group)

    def _adopt(self, members: Iterable[Member], group: asyncio.TaskGroup) -> None:
        listed = {member.incarnation: member for member in members}
        for incarnation, member in listed.items():
            if incarnation in self._workers:
                self._workers[incarnation].member = member
                self._workers[incarnation].vanished = None
            else:
                worker = self._workers[incarnation] = Worker(member)
                self._pollers[incarnation] = group.create_task(self._keep_polling(worker))
        for incarnation, worker in self._workers.items():
            if incarnation not in listed and worker.vanished is None:
                worker.vanished = time.monotonic()

    async def _keep_polling(self, worker: Worker) -> None:
        key = worker.member.incarnation
        while True:
            await self._poll(worker)
            gone = worker.vanished is not None and (
                worker.state == "unreachable" or time.monotonic() - worker.vanished > _VANISHED_SECONDS
            )
            if gone:
                del self._workers[key], self._pollers[key]
                self._count()
                return
            await asyncio.sleep(self._interval)

    async def _poll(self, worker: Worker) -> None:
        before = worker.state
        try:
            async with self._session.get(
                f"{worker.member.internal_url}/load", timeout=ClientTimeout(total=_POLL_TIMEOUT)
            ) as response:
                body = await response.read()
                response.raise_for_status()
            worker.settle(msgspec.json.decode(body, type=LoadReport))
        except TimeoutError:
            log.info("worker slow to report", extra={"worker": worker.member.name})  # out when its report is stale
        except (ClientError, OSError, ValueError, msgspec.MsgspecError) as error:  # ValueError: no usable URL
            worker.failed()
            if before == "ready":
                log.warning("worker unreachable", extra={"worker": worker.member.name, "error": repr(error)})
        if worker.state == "ready":
            self._known |= dict.fromkeys(worker.report.models if worker.report else ())
            self._turned_up.set()
        if worker.state != before:
            self._count()

    def _count(self) -> None:
        for state in ("ready", "draining", "unreachable"):
            self._metrics.workers.labels(state).set(sum(w.state == state for w in self))

    def default_model(self) -> str:
        """The first known model that is ready somewhere, or else the first known. Raises ``NoWorker``."""
        ready = {key for worker in self if worker.state == "ready" and worker.report for key in worker.report.models}
        for key in [*(key for key in self._known if key in ready), *self._known]:
            return key.rpartition("@")[0]
        raise NoWorker

    def open_choices(
        self, model: str, version: str | None, *, exclude: Excluded = frozenset(), public: bool = False
    ) -> list[Choice]:
        """The workers that could take a request now; ``exclude`` names incarnations to avoid if possible.

        Raises ``UnknownModel``, ``NoWorker``, or ``QueueFull`` with the shortest wait in ``retry_after``.
        """
        ready = [w for w in self if w.state == "ready" and (w.public_url or not public)]
        choices = self._serving(ready, model, version)
        if not choices:
            known = (key.rpartition("@") for key in self._known)
            if self._known and not any(name == model and version in (None, number) for name, _, number in known):
                wanted = model if version is None else model_key(model, version)
                raise UnknownModel(f"There is no model {wanted!r}; there are {', '.join(sorted(self._known))}.")
            raise NoWorker
        choices = [c for c in choices if c.worker.incarnation not in exclude] or choices
        free = [c for c in choices if c.worker.has_room(c.key)]
        if not free:
            raise QueueFull("Every worker is full.", retry_after=min(c.expected_wait for c in choices))
        return sorted(free, key=lambda c: c.name)

    def choose(
        self, model: str, version: str | None, *, exclude: Excluded = frozenset(), public: bool = False
    ) -> Choice:
        """The worker for one request, by the balancer. Raises as ``open_choices``."""
        return self._balancer.choose(self.open_choices(model, version, exclude=exclude, public=public))

    def _serving(self, workers: list[Worker], model: str, version: str | None) -> list[Choice]:
        """Those that serve the version (by default the highest), the ready ones before the restarting ones."""
        found: dict[str, dict[str, list[Choice]]] = {"ready": {}, "restarting": {}}
        for worker in workers:
            for key, load in (worker.report.models if worker.report else {}).items():
                name, _, number = key.rpartition("@")
                if name == model and version in (None, number) and load.status in found:
                    found[load.status].setdefault(key, []).append(Choice(worker, key))
        for by_key in found.values():
            if by_key:
                return by_key[max(by_key, key=_version_order)]
        return []

    async def await_choice(
        self,
        model: str,
        version: str | None,
        *,
        exclude: Excluded = frozenset(),
        public: bool = False,
        patience: float,
    ) -> Choice:
        """``choose``, after waiting up to ``patience`` seconds when there is no worker."""
        try:
            return self.choose(model, version, exclude=exclude, public=public)
        except NoWorker:
            await self.await_open(model, version, public=public, patience=patience)
            return self.choose(model, version, exclude=exclude, public=public)

    async def await_open(self, model: str, version: str | None, *, public: bool, patience: float) -> None:
        """When there is no worker, wait up to ``patience`` seconds for one to turn up. Raises as ``open_choices``."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.open_choices(model, version, public=public)
                return
            except NoWorker:
                if time.monotonic() >= deadline:
                    raise
            self._turned_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._turned_up.wait()


def _version_order(key: str) -> tuple[int, str]:
    version = key.rpartition("@")[2]
    return (int(version), version) if version.isascii() and version.isdigit() else (-1, version)
