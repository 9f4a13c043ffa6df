"""A front's side of asynchronous jobs: take one in, and say how it is, what came of it, or that it is cancelled."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

import msgspec
from aiohttp import web

from shoal import http
from shoal.errors import Draining, InvalidOption, JobsDisabled, NotReady, QueueFull, UnknownJob
from shoal.metrics import FrontMetrics
from worker.asking import Wanted
from worker.dialects import Dialect, native
from worker.fetching import Resolve, resolve
from worker.front_orders import Limits, Orders
from worker.job_answers import path_of, result_of, status_of
from worker.job_records import Head, JobRecords, Record, Terms, name_of, new_name
from worker.jobs import Offer, Refused
from worker.queue import QueueUnavailable
from worker.submissions import Use, refusal
from worker.timings import Timings
from worker.webhooks import Destinations

_RETRY = 0.05
_ACCEPT_SECONDS = 10.0  # for Redis to be there
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Deferred:
    """A request that wants its answer later: ``wanted`` with the deadline of a job, and where the webhook goes."""

    wanted: Wanted
    id: str
    webhook: str


class JobRequests:
    """The jobs of one node, as one front takes and shows them."""

    def __init__(
        self,
        records: JobRecords,
        destinations: Destinations,
        limits: Limits,
        front_metrics: FrontMetrics,
        *,
        worker: str,
        incarnation: str,
    ) -> None:
        self._records = records
        self._destinations = destinations
        self._limits = limits
        self._metrics = front_metrics
        self._worker = worker
        self._incarnation = incarnation
        self._terms = Terms(limits.jobs_kept, limits.job_bytes, limits.job_lifetime)

    def __repr__(self) -> str:
        return f"<JobRequests of {self._worker}: {self._terms.most} kept at most>"

    @classmethod
    def of(
        cls, orders: Orders, records: JobRecords, front_metrics: FrontMetrics, resolve: Resolve = resolve
    ) -> JobRequests:
        """Those of a front with these orders."""
        limits = orders.limits
        destinations = Destinations(limits.webhook_hosts, limits.webhook_networks, resolve)
        return cls(records, destinations, limits, front_metrics, worker=orders.worker, incarnation=orders.incarnation)

    def add_routes(self, app: web.Application) -> None:
        """To both listeners: whoever knows an id may ask about it."""
        app.router.add_get("/jobs/{id}", self._status)
        app.router.add_get("/jobs/{id}/result", self._result)
        app.router.add_delete("/jobs/{id}", self._cancel)

    async def deferred(
        self, request: web.Request, dialect: Dialect, asked: Wanted, use: Use, *, draining: bool
    ) -> Deferred | None:
        """What the head says of a job; None when the answer is wanted at once.

        Raises ``JobsDisabled``, ``Draining``, ``InvalidOption``, ``UrlDisabled``, ``InvalidUrl`` or ``UrlNotAllowed``.
        """
        webhook = _webhook(request) if dialect is native.WHOLE else ""
        if not http.prefers_async(request):
            if webhook:
                raise InvalidOption("A webhook is for asynchronous jobs: send 'Prefer: respond-async' too.")
            return None
        if dialect is not native.WHOLE or asked.is_rendered:
            raise InvalidOption("respond-async is for POST /predict, and for an answer in JSON.")
        if not self._limits.jobs_kept:
            raise JobsDisabled
        if draining:
            raise Draining
        if webhook:
            await self._destinations.check(webhook)
        seconds = http.timeout_of(request, default=self._limits.job_timeout, most=self._limits.longest_job_timeout)
        wanted = replace(asked, deadline=time.monotonic() + seconds, caching="off")
        return Deferred(wanted, f"{self._incarnation}.{_name(request, use)}", webhook)

    async def accept(self, deferred: Deferred, offers: Sequence[Offer], use: Use, timings: Timings) -> web.Response:
        """Write the record and submit the images, whose jobs the ``offers`` have; 202 once that is done.

        Raises ``QueueFull``, ``SpentTicket``, ``Quarantined``, or ``NotReady`` without a queue.
        """
        asked, id = deferred.wanted, deferred.id
        head = Head(
            id=id,
            model=asked.card.key,
            images=tuple(offer.id for offer in offers),
            about=asked.about(self._worker),
            stages=timings.stages,
            webhook=deferred.webhook,
        )
        offers = [_for_record(offer, id) for offer in offers]
        outcome = await self._submit(head, offers, use)
        if isinstance(outcome, Refused):
            if outcome.reason == "crowded":
                raise QueueFull("As many jobs are kept here as may be: until some are forgotten, ask without 'Prefer'.")
            raise refusal(outcome)
        for stage, ms in timings.stages.items():
            self._metrics.stage.labels(asked.card.key, stage).observe(ms / 1000)
        record = await self._found(id)
        headers = {"Location": path_of(id), "Preference-Applied": "respond-async"}
        return http.json_response(status_of(record), status=HTTPStatus.ACCEPTED, headers=headers)

    async def _submit(self, head: Head, offers: Sequence[Offer], use: Use) -> int | Refused:
        """Once, however often it is tried: a record that is there already stays."""
        limits, terms = self._limits, use.terms
        use.bound = True
        try:
            async with asyncio.timeout(_ACCEPT_SECONDS):
                while True:
                    try:
                        outcome = await self._records.accept(
                            head,
                            offers,
                            self._terms,
                            capacity=limits.capacity,
                            capacity_bytes=limits.capacity_bytes,
                            **terms,
                        )
                    except QueueUnavailable:
                        await asyncio.sleep(_RETRY)
                        continue
                    use.bound = not (isinstance(outcome, Refused) and outcome.reason == "crowded")
                    return outcome
        except TimeoutError:
            raise NotReady("The node's queue does not answer.") from None

    # What became of it

    async def _status(self, request: web.Request) -> web.Response:
        return http.json_response(status_of(await self._named(request)))

    async def _result(self, request: web.Request) -> web.Response:
        """The answer, or the error; while there is neither, 202 and the status."""
        record = await self._named(request)
        if record.status == "queued":
            headers = {"Location": path_of(record.head.id), "Retry-After": "1"}
            return http.json_response(status_of(record), status=HTTPStatus.ACCEPTED, headers=headers)
        return http.json_response(result_of(record))

    async def _cancel(self, request: web.Request) -> web.Response:
        """The status afterwards: a job that has ended stays as it is."""
        record = await self._named(request)
        async with _redis():
            await self._records.cancel(record.head.id)
        return http.json_response(status_of(await self._found(record.head.id)))

    async def _named(self, request: web.Request) -> Record:
        id = request.match_info["id"]
        if not name_of(id):
            raise UnknownJob
        record = await self._found(id)
        request[http.MODEL] = record.head.model
        return record

    async def _found(self, id: str) -> Record:
        async with _redis():
            record = await self._records.find(id)
        if record is None:
            raise UnknownJob
        return record


@asynccontextmanager
async def _redis() -> AsyncIterator[None]:
    """Raises ``NotReady`` without a queue."""
    try:
        yield
    except QueueUnavailable as error:
        raise NotReady("The node's queue does not answer.") from error


def _for_record(offer: Offer, id: str) -> Offer:
    assert offer.job is not None
    return replace(offer, front=id, job=msgspec.structs.replace(offer.job, waiters=[], record=id))


def _webhook(request: web.Request) -> str:
    """Where the webhook goes, by header or query. Raises ``InvalidOption`` for both."""
    header, parameter = request.headers.get(http.WEBHOOK), request.query.get("webhook")
    if header is not None and parameter is not None:
        raise InvalidOption(f"Say {http.WEBHOOK} or webhook, not both.")
    said = header if header is not None else parameter
    if said is None:
        return ""
    if not said.strip():
        raise InvalidOption("The webhook is empty.")
    return said.strip()


def _name(request: web.Request, use: Use) -> str:
    """The random part of the id: that of the gateway, which may send a job twice, or else a new one."""
    said = request.headers.get(http.JOB, "")
    is_gateways = use.ticket is not None and not use.ticket.uses
    return said if is_gateways and _NAME.fullmatch(said) else new_name()
