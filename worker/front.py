"""The worker's HTTP handlers: check the ticket and the limits, receive, decode, submit, answer."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web

from shoal import access, callers, cors, http, metrics, paths, processes, tls
from shoal.documents import Live, Ready
from shoal.errors import DeadlineExceeded, MissingTicket, NotReady, QueueFull, ShoalError, SpentTicket
from shoal.tickets import Ticket, Verifier
from shoal.traces import OFF, Tracer
from shoal.wire import NodeState
from worker import answering, description, exposition
from worker.asking import Wanted, wanted
from worker.dialects import Dialect, native, open_inference, tensorflow_serving
from worker.dialects.open_inference_questions import OpenInferenceQuestions
from worker.dialects.tensorflow_questions import TensorFlowQuestions
from worker.envelopes import job_of
from worker.front_orders import Orders
from worker.images import annotate
from worker.job_requests import JobRequests
from worker.jobs import Offer
from worker.load_reports import LoadReports
from worker.questions import Questions
from worker.queue import Queue, QueueUnavailable, bulk_capacity
from worker.receiving import Receiver
from worker.submissions import Answered, Submissions, Use
from worker.tally import Tally
from worker.timings import Timings

log = logging.getLogger("worker.front")

_DIALECTS: tuple[tuple[str, Dialect], ...] = (
    ("/predict", native.WHOLE),
    ("/", native.PAIRS),
    *((path, open_inference.INFER) for path in paths.OPEN_INFERENCE),
    *((f"{path}:predict", tensorflow_serving.PREDICT) for path in paths.TENSORFLOW_SERVING),
)
_LONGEST_NAME = 128
_LONGEST_HEADER = 8000  # HTTP libraries take about 8190


@dataclass(frozen=True)
class Prepared:
    """The items of a request before they are submitted: an answer for each, or None and a job in ``jobs``.

    ``wanted`` is what the body left of it; ``picture`` is the image itself when it is to be drawn into.
    """

    wanted: Wanted
    found: list[Answered | None]
    jobs: list[Offer]
    picture: bytes


class Front:
    """The handlers of one front, and what they know of the node."""

    def __init__(
        self,
        orders: Orders,
        queue: Queue,
        submissions: Submissions,
        receiver: Receiver,
        jobs: JobRequests,
        front_metrics: metrics.FrontMetrics,
        tracer: Tracer = OFF,
        certificates: Sequence[tls.Certificate | None] = (),
    ) -> None:
        self._orders = orders
        self._limits = orders.limits
        self._queue = queue
        self._submissions = submissions
        self._receiver = receiver
        self._jobs = jobs
        self._metrics = front_metrics
        self._tracer = tracer
        self._certificates = [certificate for certificate in certificates if certificate]
        self._verifier = Verifier(Path(orders.ticket_keys), orders.incarnation) if orders.ticket_keys else None
        self._reports = LoadReports(
            queue,
            submissions.depths,
            worker=orders.worker,
            incarnation=orders.incarnation,
            public_url=orders.public_url,
            capacity=orders.limits.capacity,
            caches=orders.limits.cache_bytes > 0,
        )
        self._uploads: Counter[str] = Counter()  # under way, by ticket
        self._uploading: Counter[str] = Counter()  # those that will want a place in the queue, by model version
        self._unanswered: Counter[str] = Counter()  # requests, by model version
        self._requests = 0
        self._bytes = 0
        self._tally = Tally()

    def __repr__(self) -> str:
        return f"<Front {self._orders.front}: {self._requests} requests, {len(self._reports.state.models)} models>"

    @property
    def is_draining(self) -> bool:
        return self._reports.state.draining

    async def follow(self, lines: AsyncIterator[bytes]) -> None:
        """Take every node state that the supervisor writes; without it there is no node."""
        async for line in lines:
            self._reports.tell(msgspec.json.decode(line, type=NodeState))
            models = [*{*self._reports.state.models, *self._unanswered}]
            processes.tell_parent({"event": "alive", "models": models, "served": self._tally.document()})
        os._exit(1)

    def public_app(self) -> web.Application:
        """What clients may reach."""
        remote = access.Remote(self._limits.trusted_proxies)
        around = http.middleware(self._metrics, lambda: self.is_draining, remote=remote, tracer=self._tracer)
        app = web.Application(middlewares=[around])
        cors.allow(app, self._limits.cors_origins)
        for path, dialect in _DIALECTS:
            predict = answering.measured(partial(self._predict, dialect), self._metrics)
            app.router.add_post(path, predict, expect_handler=http.expect_nothing_yet)
        questions = Questions(self._reports, self._ticket)
        OpenInferenceQuestions(questions, self._metrics, live=self._live, ready=self._ready).add_to(app)
        TensorFlowQuestions(questions).add_to(app)
        self._jobs.add_routes(app)
        app.router.add_get("/", self._welcome)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/openapi.json", http.document_of(description.document))
        return app

    def internal_app(self) -> web.Application:
        """What gateways, checks and Prometheus may reach as well."""
        app = self.public_app()
        if self._orders.internal_certificate:
            app.middlewares.append(callers.only(callers.WORKER))
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/load", self._load)
        app.router.add_get("/metrics", self._exposition)
        app.router.add_post("/drain", self._drain)
        return app

    # Predictions

    async def _predict(self, dialect: Dialect, request: web.Request) -> web.StreamResponse:
        timings = Timings()
        try:
            return await self._serve(dialect, request, timings)
        finally:
            timings.record(self._tracer)

    async def _serve(self, dialect: Dialect, request: web.Request, timings: Timings) -> web.StreamResponse:
        request[access.WORKER] = self._orders.worker
        use, spend = Use(self._ticket(request)), False
        request[access.WAY] = use.ticket.way if use.ticket else "direct"
        try:
            asked = wanted(request, use.ticket, dialect, reports=self._reports, limits=self._limits)
            later = await self._jobs.deferred(request, dialect, asked, use, draining=self.is_draining)
            asked = later.wanted if later else asked
            with _one_more(self._unanswered, asked.card.key):
                with self._using(use.ticket), self._holding(request, asked):
                    prepared = await self._prepared(request, asked, use, timings)
                asked = prepared.wanted
                if later:
                    return await self._jobs.accept(later, prepared.jobs, use, timings)
                answers = await self._answers(asked, prepared, use)
        except QueueFull as error:
            error.retry_after = self._wait_of(asked.card.key)
            raise
        except ShoalError as error:
            spend = not error.retryable
            raise
        finally:
            size = request.content.total_bytes
            self._metrics.uploaded.labels(request[access.WAY]).inc(size)
            if request[access.WAY] == "direct" and access.MODEL in request:
                self._tally.uploaded(request[access.MODEL], size)
            if use.ticket is not None and not use.bound:
                self._submissions.arrived(use.ticket.model, use.ticket, spend=spend)
        self._tally.answered(asked.card.key, seconds=timings.seconds)
        return await self._response(asked, prepared, answers, timings, use.ticket)

    async def _prepared(self, request: web.Request, asked: Wanted, use: Use, timings: Timings) -> Prepared:
        """The items of a request, received, looked for, and decoded as far as they were not found."""
        with _one_more(self._uploading, asked.card.key):
            received = await asked.dialect.receive(request, asked, self._receiver, timings)
        items, asked = received.items, received.wanted
        found: list[Answered | None] = [None] * len(items)
        offers: list[Offer] = []
        if asked.caching == "shared":
            offers = [self._offer(asked, digest) for digest in await self._receiver.digests(items)]
            found = await self._submissions.find(asked.card.key, offers, use)
            timings.mark("cache")
        missing = [n for n, answered in enumerate(found) if answered is None]
        jobs = []
        if missing:
            with _one_more(self._uploading, asked.card.key):
                numbered = [(n + 1, items[n]) for n in missing]
                decoded = await self._receiver.decode(numbered, asked, many=len(items) > 1)
            timings.mark("decode")
            group = uuid.uuid4().hex if len(items) > 1 else ""
            subject, trace = request.get(http.SUBJECT, ""), self._tracer.traceparent()
            offered = [offers[n] for n in missing] if offers else [self._offer(asked, d.digest) for d in decoded]
            jobs = [
                replace(offer, job=job_of(asked, offer, d, group, subject, trace))
                for offer, d in zip(offered, decoded, strict=True)
            ]
        picture = items[0] if asked.is_rendered and isinstance(items[0], bytes) else b""
        return Prepared(asked, found, jobs, picture)

    async def _answers(self, asked: Wanted, prepared: Prepared, use: Use) -> list[Answered]:
        """What was found, and the answers to the rest, in the order of the images."""
        executed = iter(await self._submissions.answer_all(asked.card.key, prepared.jobs, use) if prepared.jobs else ())
        return [next(executed) if answered is None else answered for answered in prepared.found]

    def _offer(self, asked: Wanted, digest: str) -> Offer:
        sharing = asked.sharing(digest, self._limits)
        return Offer(uuid.uuid4().hex, self._orders.front, digest, asked.deadline, asked.priority, sharing)

    def _ticket(self, request: web.Request) -> Ticket | None:
        if self._verifier is None:
            return None
        token = http.bearer(request, parameter="ticket")
        if token is None:
            raise MissingTicket
        ticket = self._verifier.verify(token)
        request[http.SUBJECT] = ticket.subject
        return ticket

    @contextmanager
    def _using(self, ticket: Ticket | None) -> Iterator[None]:
        """An upload under way; a ticket opens no more of them than it has uses. Raises ``SpentTicket``."""
        if ticket is None or not ticket.uses:
            yield
            return
        if self._uploads[ticket.id] >= ticket.uses:
            raise SpentTicket
        with _one_more(self._uploads, ticket.id):
            yield

    @contextmanager
    def _holding(self, request: web.Request, asked: Wanted) -> Iterator[None]:
        """A request whose images we have. Refuses on its head, before its body is read."""
        http.check_head(request, asked.limit)
        size = self._receiver.size_of(request, asked)
        self._admit(asked, size)
        self._requests += 1
        self._bytes += size
        try:
            yield
        finally:
            self._requests -= 1
            self._bytes -= size

    def _admit(self, asked: Wanted, size: int) -> None:
        """Refuse on the head of a request what there is no room for, before its body is read."""
        limits, key = self._limits, asked.card.key
        busy = self._requests >= limits.in_flight or self._bytes + size > limits.in_flight_bytes
        room = limits.capacity if asked.priority == "interactive" else bulk_capacity(limits.capacity)
        if busy or self._submissions.depths[key] + self._uploading[key] >= room:
            raise QueueFull(retry_after=self._wait_of(key))

    def _wait_of(self, key: str) -> float:
        state = self._reports.state.models.get(key)
        return self._submissions.depths[key] * (state.seconds_per_image if state else 0.0)

    async def _response(
        self,
        asked: Wanted,
        prepared: Prepared,
        answers: Sequence[Answered],
        timings: Timings,
        ticket: Ticket | None,
    ) -> web.Response:
        answering.measure(answers, asked, timings, self._metrics)
        picture = b""
        if asked.is_rendered:
            picture = await self._rendered(asked, prepared.picture, answers[0])
            timings.mark("render")
        headers = answering.headers(answers, timings)
        if ticket is not None and not ticket.uses:  # a gateway's own; a client has no use for it
            with suppress(NotReady):
                report = msgspec.json.encode(await self._reports.report(ticket.gateway))
                if len(report) <= _LONGEST_HEADER:  # a gateway polls the report anyway
                    headers[http.LOAD] = report.decode()
        if asked.is_rendered:
            return answering.picture(picture, asked, self._orders.worker, headers)
        respond = partial(asked.dialect.response, answers, asked, timings, headers, worker=self._orders.worker)
        began = time.perf_counter()
        response = await self._receiver.in_thread(respond) if answering.is_large(answers) else respond()
        self._metrics.stage.labels(asked.card.key, "answer").observe(time.perf_counter() - began)
        return response

    async def _rendered(self, asked: Wanted, image: bytes, answered: Answered) -> bytes:
        predictions = (answered.reply.answer or {}).get("predictions", ())
        draw = partial(annotate, image, predictions, max_pixels=self._limits.max_pixels)
        try:
            async with asyncio.timeout_at(asked.deadline):
                return await self._receiver.in_thread(draw)
        except TimeoutError:
            raise DeadlineExceeded from None

    # State

    async def _load(self, request: web.Request) -> web.Response:
        report = await self._reports.report(request.headers.get(http.GATEWAY, "")[:_LONGEST_NAME])
        return web.Response(body=msgspec.json.encode(report), content_type="application/json")

    async def _ready(self, request: web.Request) -> web.Response:
        """200 while at least one model is ready and the node is not draining; else 503 with the reason."""
        if self._reports.state.draining or not self._reports.is_informed:
            raise NotReady("draining" if self._reports.state.draining else "no word from the supervisor")
        try:
            await self._queue.run_id()
        except QueueUnavailable as error:
            raise NotReady("The node's queue does not answer.") from error
        if not any(state.status == "ready" for state in self._reports.state.models.values()):
            raise NotReady
        return http.json_response(Ready(True))

    async def _drain(self, request: web.Request) -> web.Response:
        """Drain the node, as at SIGTERM, on the signed word of a gateway."""
        token = http.bearer(request)
        if self._verifier is None or token is None:
            raise MissingTicket
        request[http.SUBJECT] = self._verifier.verify_order(token, "drain")
        processes.tell_parent({"event": "drain"})
        return http.json_response({"draining": True}, status=202)

    async def _live(self, request: web.Request) -> web.Response:
        return http.json_response(Live(True))

    async def _welcome(self, request: web.Request) -> web.Response:
        return web.Response(text="Welcome to Shoal. This is a worker: POST an image to /predict with a ticket.\n")

    async def _exposition(self, request: web.Request) -> web.Response:
        return await exposition.response(self._metrics.registry, self._reports, self._queue, self._certificates)


@contextmanager
def _one_more(counter: Counter[str], name: str) -> Iterator[None]:
    """One more by that ``name`` meanwhile; none are not in the counter."""
    counter[name] += 1
    try:
        yield
    finally:
        counter[name] -= 1
        if not counter[name]:
            del counter[name]
