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
from dataclasses import dataclass, replace
from http import HTTPStatus

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout

from discovery import Member, Watch
from discovery.publications import Publications
from gateway.balancers import Balancer, by_content
from gateway.known_worker import STATES, Worker, decode_report
from gateway.throughput import Refusals
from gateway.versions import pick
from shoal import http
from shoal.errors import NoWorker, QueueFull, UnknownLabel, UnknownModel
from shoal.metrics import GatewayMetrics
from shoal.tls import Calls
from shoal.wire import Priority, Status, model_key

log = logging.getLogger(__name__)

_POLL_TIMEOUT = 0.75
_VANISHED_SECONDS = 60.0
_PANIC_SHARE = 0.5
_LATE_SECONDS = 10.0
_WAIT_SHARE = 0.75  # of its time that a request may be expected to wait: what waits longer is likely to be late
_TIERS: dict[Status, int] = {"ready": 0, "stalled": 1, "restarting": 1}
_TIER_COUNT = 2

Excluded = frozenset[str]


@dataclass(frozen=True)
class Wish:
    """What a request asks of a worker. ``seconds`` is how long it can wait.

    Without a ``version`` or a ``label`` the model's split decides by the ``key``, else the highest version of each
    worker. An image with a ``digest`` goes where its answer would be cached.
    """

    model: str
    version: str | None = None
    label: str | None = None
    key: str = ""
    digest: str = ""
    public: bool = False
    priority: Priority = "interactive"
    seconds: float = float("inf")
    exclude: Excluded = frozenset()


@dataclass(frozen=True)
class Choice:
    """A worker for a request, as the balancer sees it. ``key`` is the resolved model version."""

    worker: Worker
    key: str
    priority: Priority

    @property
    def name(self) -> str:
        return self.worker.member.name

    @property
    def expected_wait(self) -> float:
        return self.worker.expected_wait(self.key, self.priority)

    @property
    def has_room(self) -> bool:
        return self.room > 0

    @property
    def room(self) -> int:
        return self.worker.room(self.key, self.priority)


class Fleet:
    """All workers that the gateway knows. Construct with ``Fleet.follow``."""

    def __init__(
        self,
        name: str,
        session: ClientSession,
        balancer: Balancer,
        interval: float,
        metrics: GatewayMetrics,
        publications: Publications,
        calls: Calls,
    ) -> None:
        self._name = name
        self._session = session
        self._calls = calls
        self._balancer = balancer
        self._interval = interval
        self._metrics = metrics
        self.publications = publications
        self.refusals = Refusals()
        self._workers: dict[str, Worker] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, None] = {}  # every model version that was ever reported here, in order
        self._turned_up = asyncio.Event()
        self._polled = time.monotonic()

    def __repr__(self) -> str:
        ready = sum(w.state == "ready" for w in self._workers.values())
        return f"<Fleet {ready} of {len(self._workers)} workers ready>"

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    @classmethod
    @asynccontextmanager
    async def follow(
        cls,
        watch: Watch,
        session: ClientSession,
        balancer: Balancer,
        *,
        name: str,
        interval: float,
        metrics: GatewayMetrics,
        publications: Publications | None = None,
        calls: Calls | None = None,
    ) -> AsyncIterator[Fleet]:
        """Follow the directory and poll its members, as the gateway ``name``. Entering waits for the first polls.

        ``calls`` says how to speak to workers; by default in plain HTTP.
        """
        calls = calls or Calls(None, "worker")
        fleet = cls(name, session, balancer, interval, metrics, publications or Publications(), calls)
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

    @property
    def is_polling(self) -> bool:
        """Whether polls come to an end: an answer, or the knowledge that there is none."""
        return not self._workers or time.monotonic() - self._polled < _LATE_SECONDS

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
            if worker.vanished is not None and (
                worker.state in ("unreachable", "silent") or time.monotonic() - worker.vanished > _VANISHED_SECONDS
            ):
                del self._workers[key], self._pollers[key]
                self._count()
                return
            await asyncio.sleep(self._interval)

    async def _poll(self, worker: Worker) -> None:
        before = worker.state
        try:
            url = f"{worker.member.internal_url}/load"
            async with self._session.get(
                url,
                headers={http.GATEWAY: self._name},
                timeout=ClientTimeout(total=_POLL_TIMEOUT),
                **self._calls.terms(url),
            ) as response:
                body = await response.read()
                if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise TimeoutError  # it is there, and cannot say: its queue is being replaced
                response.raise_for_status()
            worker.settle(decode_report(body))
        except TimeoutError:
            worker.missed()
            log.info("worker slow to report", extra={"worker": worker.member.name})
        except (ClientError, OSError, ValueError, msgspec.MsgspecError) as error:  # ValueError: no usable URL
            worker.refused()
            if before == "ready":
                log.warning("worker unreachable", extra={"worker": worker.member.name, "error": repr(error)})
        self._polled = time.monotonic()
        if worker.state in ("ready", "ejected"):
            self._seen |= dict.fromkeys(worker.report.models if worker.report else ())
            self._turned_up.set()
        if worker.state != before:
            self._count()

    def _count(self) -> None:
        for state in STATES:
            self._metrics.workers.labels(state).set(sum(w.state == state for w in self))

    def named(self, incarnation: str) -> Worker | None:
        """The worker of that incarnation."""
        return next((worker for worker in self if worker.incarnation == incarnation), None)

    def default_model(self) -> str:
        """The first known model that is ready somewhere, or else the first known: published ones last, by their names.

        Raises ``NoWorker``.
        """
        ready = {
            key.rpartition("@")[0]
            for worker in self
            if worker.state == "ready" and worker.report
            for key, load in worker.report.models.items()
            if load.status in _TIERS
        }
        models = list(dict.fromkeys(key.rpartition("@")[0] for key in self.known()))
        models.sort(key=lambda model: model if self.publications.was_published(model) else "")
        for model in [*(model for model in models if model in ready), *models]:
            return model
        raise NoWorker

    def known(self) -> dict[str, None]:
        """Every model version that is not unknown, in order.

        It was reported, and if its model was ever published, it still is, or is still reported.
        """
        reported = {key for worker in self if worker.report for key in worker.report.models}
        published = (model_key(p.model, version) for p in self.publications for version in p.versions)
        kept = (k for k in self._seen if k in reported or not self.publications.was_published(k.rpartition("@")[0]))
        return dict.fromkeys([*kept, *published])

    def open_choices(self, wish: Wish) -> list[Choice]:
        """The workers that could take a request now; those that it excludes only when there are no others.

        Raises as ``serving``, or ``QueueFull`` with the shortest wait in ``retry_after``.
        """
        choices = self.serving(wish)
        choices = [c for c in choices if c.worker.incarnation not in wish.exclude] or choices
        free = [c for c in choices if c.has_room and c.expected_wait < wish.seconds * _WAIT_SHARE]
        if not free:
            raise QueueFull("Every worker is full.", retry_after=min(c.expected_wait for c in choices))
        return sorted(free, key=lambda c: c.name)

    def serving(self, wish: Wish) -> list[Choice]:
        """The workers that serve it, with room or without.

        Raises ``UnknownModel``, ``UnknownLabel`` or ``NoWorker``.
        """
        wish = self.labelled(wish)
        choices = self._serving([w for w in self._trusted() if w.public_url or not wish.public], wish)
        if not choices:
            self._check_known(wish)
            raise NoWorker
        return choices

    def _trusted(self) -> list[Worker]:
        """The ready workers. When they are fewer than half of those that answer, the ejected ones as well.

        So many do not fail at once by their own fault, and one that is left alone would only be overrun.
        """
        ready = [w for w in self if w.state == "ready"]
        ejected = [w for w in self if w.state == "ejected" and w.has_answered_since]
        if ejected and len(ready) < (len(ready) + len(ejected)) * _PANIC_SHARE:
            self._metrics.panics.inc()
            return ready + ejected
        return ready

    def labelled(self, wish: Wish) -> Wish:
        """The wish with the version that its label names. Raises ``UnknownModel``, ``UnknownLabel`` or ``NoWorker``."""
        if wish.label is None:
            return wish
        published = self.publications.of(wish.model)
        if published is not None and wish.label in published.labels:
            return replace(wish, label=None, version=published.labels[wish.label])
        self._check_known(wish)
        if published is None and not self.known():
            raise NoWorker
        there_are = ", ".join(sorted(published.labels)) if published else ""
        raise UnknownLabel(f"The model {wish.model!r} has no label {wish.label!r}; it has {there_are or 'none'}.")

    def _check_known(self, wish: Wish) -> None:
        known = self.known()
        versions = [number for name, _, number in (key.rpartition("@") for key in known) if name == wish.model]
        if known and (not versions or wish.version not in (None, *versions)):
            wanted = wish.model if wish.version is None else model_key(wish.model, wish.version)
            raise UnknownModel(f"There is no model {wanted!r}; there are {', '.join(sorted(known))}.")

    def choose(self, wish: Wish) -> Choice:
        """The worker for one request, by its content or by the balancer. Raises as ``open_choices``."""
        choices = self.open_choices(wish)
        return by_content(choices, wish.digest) if wish.digest else self._balancer.choose(choices)

    def caches(self, model: str) -> bool:
        """Whether a worker remembers answers of the model."""
        reports = (worker.report.models for worker in self if worker.report)
        return any(load.caches and key.rpartition("@")[0] == model for r in reports for key, load in r.items())

    def _serving(self, workers: list[Worker], wish: Wish) -> list[Choice]:
        """Those that serve the version, the ready ones before those that will be."""
        published = self.publications.of(wish.model)
        for tier in range(_TIER_COUNT):
            offers = {worker: _versions(worker, wish.model, tier) for worker in workers}
            picked = pick(offers, version=wish.version, published=published, key=wish.key)
            if picked:
                return [Choice(w, model_key(wish.model, version), wish.priority) for w, version in picked.items()]
        return []

    async def await_choice(self, wish: Wish, patience: float) -> Choice:
        """``choose``, after waiting up to ``patience`` seconds when there is no worker."""
        try:
            return self.choose(wish)
        except NoWorker:
            await self.await_open(wish, patience)
            return self.choose(wish)

    async def await_open(self, wish: Wish, patience: float) -> None:
        """When there is no worker, wait up to ``patience`` seconds for one to turn up. Raises as ``open_choices``."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.open_choices(wish)
                return
            except NoWorker:
                if time.monotonic() >= deadline:
                    raise
            self._turned_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._turned_up.wait()


def _versions(worker: Worker, model: str, tier: int) -> list[str]:
    prefix = model_key(model, "")
    models = worker.report.models.items() if worker.report else ()
    return [key[len(prefix) :] for key, load in models if key.startswith(prefix) and _TIERS.get(load.status) == tier]
