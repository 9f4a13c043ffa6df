"""The gateway's own view of the workers: whom to choose for a request, among those that its roster knows."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from random import Random

from discovery import Member, Watch
from discovery.publications import Publications
from gateway.balancers import Balancer, by_content
from gateway.known_worker import Worker
from gateway.offers import Offers
from gateway.roster import Roster
from gateway.subsets import Subset
from gateway.throughput import Refusals
from gateway.versions import pick
from shoal.documents import WorkerState
from shoal.errors import NoWorker, QueueFull, UnknownLabel, UnknownModel
from shoal.metrics import GatewayMetrics
from shoal.tls import Calls
from shoal.wire import Priority, model_key

_PANIC_SHARE = 0.5
_WAIT_SHARE = 0.75  # of its time that a request may be expected to wait: what waits longer is likely to be late

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
    def room(self) -> int:
        return self.worker.room(self.key, self.priority)

    def is_open(self, wish: Wish) -> bool:
        """Whether there is room, and an answer in time is likely."""
        return self.room > 0 and self.expected_wait < wish.seconds * _WAIT_SHARE

    def is_wanted(self, wish: Wish) -> bool:
        """Whether the request can go there, and does not exclude it."""
        worker = self.worker
        return worker.incarnation not in wish.exclude and (not wish.public or worker.public_url is not None)


class Fleet:
    """The workers that the gateway uses, and the choice among them. Construct with ``Fleet.follow``."""

    def __init__(self, balancer: Balancer, metrics: GatewayMetrics, publications: Publications) -> None:
        self._balancer = balancer
        self._metrics = metrics
        self.publications = publications
        self.refusals = Refusals()
        self._roster: Roster
        self._offers: Offers | None = None
        self._random = Random()  # noqa: S311 - no secret
        self._seen: dict[str, None] = {}  # every model version that was ever reported here, in order
        self._turned_up = asyncio.Event()

    def __repr__(self) -> str:
        ready = sum(w.state == "ready" for w in self)
        return f"<Fleet {ready} of {len(self._roster)} workers ready>"

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._roster)

    @classmethod
    @asynccontextmanager
    async def follow(
        cls,
        watch: Watch,
        balancer: Balancer,
        *,
        name: str,
        interval: float,
        metrics: GatewayMetrics,
        publications: Publications | None = None,
        calls: Calls | None = None,
        gateways: Watch | None = None,
        subset: Subset | None = None,
    ) -> AsyncIterator[Fleet]:
        """Follow the directory and poll its members, as the gateway ``name``. Entering waits for the first polls.

        ``calls`` says how to speak to workers; by default in plain HTTP. With ``gateways`` and a ``subset`` a gateway
        uses only its part of a large fleet.
        """
        fleet = cls(balancer, metrics, publications or Publications())
        fleet._roster = Roster(
            name,
            calls or Calls(None, "worker"),
            interval,
            metrics,
            subset or Subset(name, above=sys.maxsize, copies=1),
            news=fleet._forget_offers,
            turned_up=fleet._saw,
        )
        async with fleet._roster.following(watch, gateways):
            yield fleet

    @property
    def is_polling(self) -> bool:
        """Whether polls come to an end: an answer, or the knowledge that there is none."""
        return self._roster.is_polling

    def _forget_offers(self) -> None:
        self._offers = None

    def _saw(self, worker: Worker) -> None:
        self._seen |= dict.fromkeys(worker.keys)
        self._turned_up.set()

    @property
    def offers(self) -> Offers:
        if self._offers is None:
            self._offers = Offers(self)
        return self._offers

    @property
    def elsewhere(self) -> Mapping[str, Member]:
        """The workers of other gateways, by incarnation. They have no reports here."""
        return self._roster.elsewhere

    def named(self, incarnation: str) -> Worker | None:
        """The worker of that incarnation, even one of other gateways."""
        return self._roster.named(incarnation)

    async def state_of(self, incarnation: str) -> WorkerState:
        """How that worker is. One that has not reported here is asked now, as those of other gateways are."""
        worker = self.named(incarnation)
        if worker is None:
            return "gone"
        if worker.report is None:
            await self._roster.look_at(worker)
        return worker.state

    def default_model(self) -> str:
        """The first known model that is ready somewhere, or else the first known: published ones last, by their names.

        Raises ``NoWorker``.
        """
        models = list(dict.fromkeys(key.rpartition("@")[0] for key in self.known()))
        models.sort(key=lambda model: model if self.publications.was_published(model) else "")
        for model in models:
            if any(worker.state == "ready" for tier in self.offers.tiers(model) for worker in tier):
                return model
        for model in models:
            return model
        raise NoWorker

    def known(self) -> dict[str, None]:
        """Every model version that is not unknown, in order.

        It was reported, and if its model was ever published, it still is, or is still reported.
        """
        reported = self.offers.reported
        published = (model_key(p.model, version) for p in self.publications for version in p.versions)
        kept = (k for k in self._seen if k in reported or not self.publications.was_published(k.rpartition("@")[0]))
        return dict.fromkeys([*kept, *published])

    def open_choices(self, wish: Wish) -> list[Choice]:
        """The workers that could take a request now; those that it excludes only when there are no others.

        Raises as ``serving``, or ``QueueFull`` with the shortest wait in ``retry_after``.
        """
        choices = self.serving(wish)
        choices = [c for c in choices if c.worker.incarnation not in wish.exclude] or choices
        free = [c for c in choices if c.is_open(wish)]
        if not free:
            raise QueueFull("Every worker is full.", retry_after=min(c.expected_wait for c in choices))
        return sorted(free, key=lambda c: c.name)

    def some_choices(self, wish: Wish) -> list[Choice]:
        """As ``open_choices``, but of a large fleet only a few at random, if they will do.

        They do when any is open and at least half are ready: else all have to be looked at, to trust the ejected ones
        as well, to find the last free place, or to tell the shortest wait.
        """
        few = self._balancer.few
        wish = self.labelled(wish)
        offers = self.offers.ready(wish.model, wish.version, self.publications.of(wish.model), wish.key) if few else []
        if len(offers) > 2 * few:
            sample = self._random.sample(offers, few)
            ready = [Choice(w, model_key(wish.model, v), wish.priority) for w, v in sample if w.state == "ready"]
            some = [c for c in ready if c.is_open(wish) and c.is_wanted(wish)]
            if some and len(ready) >= few * _PANIC_SHARE:
                return some
        return self.open_choices(wish)

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
        if wish.digest:
            return by_content(self.open_choices(wish), wish.digest)
        return self._balancer.choose(self.some_choices(wish))

    def caches(self, model: str) -> bool:
        """Whether a worker remembers answers of the model."""
        return model in self.offers.caching

    def _serving(self, workers: list[Worker], wish: Wish) -> list[Choice]:
        """Those that serve the version, the ready ones before those that will be."""
        published = self.publications.of(wish.model)
        for tier in self.offers.tiers(wish.model):
            offers = {worker: tier[worker] for worker in workers if worker in tier}
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
                self.some_choices(wish)
                return
            except NoWorker:
                if time.monotonic() >= deadline:
                    raise
            self._turned_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._turned_up.wait()
