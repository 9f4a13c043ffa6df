"""The worker's HTTP process: check the ticket and the limits, decode, submit, answer.

python -m worker.front     (the supervisor starts it and writes its orders to standard input)
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from shoal import http, logs, metrics, processes, service
from shoal.errors import (
    DeadlineExceeded,
    InvalidTicket,
    MissingTicket,
    NotReady,
    QueueFull,
    ShoalError,
    SpentTicket,
    UnknownModel,
    WrongTask,
)
from shoal.tickets import Ticket, Verifier
from shoal.wire import Frame, Job, ModelCard, ModelState, NodeState, Priority, Reply, Tensor, model_key
from worker.front_orders import Orders
from worker.images import decode
from worker.load_reports import LoadReports
from worker.queue import Queue, QueueUnavailable, bulk_capacity
from worker.submissions import Submissions
from worker.timings import Timings

log = logging.getLogger("worker.front")

_LONGEST_NAME = 128


@dataclass(frozen=True)
class Wanted:
    """What a request asks for, by its head and its ticket. ``deadline`` is on the monotonic clock."""

    state: ModelState
    card: ModelCard
    deadline: float
    options: dict[str, Any]
    priority: Priority
    limit: int


class Front:
    """The handlers of one front, and what they know of the node."""

    def __init__(
        self,
        orders: Orders,
        queue: Queue,
        submissions: Submissions,
        decoders: ThreadPoolExecutor,
        front_metrics: metrics.FrontMetrics,
    ) -> None:
        self._orders = orders
        self._limits = orders.limits
        self._queue = queue
        self._submissions = submissions
        self._decoders = decoders
        self._metrics = front_metrics
        self._verifier = Verifier(Path(orders.ticket_keys), orders.incarnation) if orders.ticket_keys else None
        self._reports = LoadReports(
            queue,
            submissions.depths,
            worker=orders.worker,
            incarnation=orders.incarnation,
            public_url=orders.public_url,
            capacity=orders.limits.capacity,
        )
        self._uploads: Counter[str] = Counter()  # under way, by ticket
        self._uploading: Counter[str] = Counter()  # the same by model version
        self._requests = 0
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Front {self._orders.front}: {self._requests} requests, {len(self._reports.state.models)} models>"

    @property
    def is_draining(self) -> bool:
        return self._reports.state.draining

    async def follow(self, lines: AsyncIterator[bytes]) -> None:
        """Take every node state that the supervisor writes; without it there is no node."""
        async for line in lines:
            self._reports.tell(msgspec.json.decode(line, type=NodeState))
            processes.tell_parent({"event": "alive"})
        os._exit(1)

    def public_app(self) -> web.Application:
        """What clients may reach."""
        app = web.Application(middlewares=[http.middleware(self._metrics, lambda: self.is_draining)])
        for path, shape in (("/predict", self._whole), ("/", self._pairs)):
            app.router.add_post(path, partial(self._predict, shape), expect_handler=http.expect_nothing_yet)
        app.router.add_get("/", self._welcome)
        app.router.add_get("/livez", self._live)
        return app

    def internal_app(self) -> web.Application:
        """What gateways, checks and Prometheus may reach as well."""
        app = self.public_app()
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/load", self._load)
        app.router.add_get("/metrics", self._exposition)
        return app

    # Predictions

    async def _predict(self, shape: Callable[[dict[str, Any]], object], request: web.Request) -> web.StreamResponse:
        timings = Timings()
        ticket = self._ticket(request)
        submitted = spend = False
        try:
            wanted = self._wanted(shape, request, ticket)
            with self._using(ticket):
                job = await self._job(request, wanted, timings)
            submitted = True
            reply = await self._submissions.answer(wanted.card.key, job, ticket=ticket)
        except QueueFull as error:
            error.retry_after = self._wait_of(ticket.model if ticket else wanted.card.key)
            raise
        except ShoalError as error:
            spend = not error.retryable
            raise
        finally:
            if ticket is not None and not submitted:
                self._submissions.arrived(ticket.model, ticket, spend=spend)
        return await self._response(shape, wanted.card, reply, timings, ticket)

    @contextmanager
    def _using(self, ticket: Ticket | None) -> Iterator[None]:
        """An upload under way; a ticket opens no more of them than it has uses. Raises ``SpentTicket``."""
        if ticket is None or not ticket.uses:
            yield
            return
        if self._uploads[ticket.id] >= ticket.uses:
            raise SpentTicket
        self._uploads[ticket.id] += 1
        try:
            yield
        finally:
            self._uploads[ticket.id] -= 1
            if not self._uploads[ticket.id]:
                del self._uploads[ticket.id]

    def _wanted(self, shape: Callable[[dict[str, Any]], object], request: web.Request, ticket: Ticket | None) -> Wanted:
        """Everything that the head of a request says, checked."""
        state, card = self._model(request, ticket)
        request[http.MODEL] = card.key
        if shape == self._pairs and card.task != "classification":
            raise WrongTask
        limits = self._limits
        seconds = http.timeout_of(request, default=limits.request_timeout, most=limits.longest_timeout)
        options = {}
        if "top_k" in request.query:
            options["top_k"] = http.whole_number(request, "top_k", default=5, most=1000)
        priority = ticket.priority if ticket else http.priority_of(request)
        limit = min(limits.max_body_bytes, ticket.max_bytes) if ticket else limits.max_body_bytes
        return Wanted(state, card, time.monotonic() + seconds, options, priority, limit)

    async def _job(self, request: web.Request, wanted: Wanted, timings: Timings) -> Job:
        """The job that a request asks for, its body received and decoded. Raises before the body when it can."""
        card = wanted.card
        size = wanted.limit if request.content_length is None else request.content_length
        http.check_head(request, wanted.limit)
        self._admit(wanted, size)
        self._requests += 1
        self._bytes += size
        self._uploading[card.key] += 1
        try:
            digest, tensor, frame = await self._receive(request, wanted, timings)
        finally:
            self._requests -= 1
            self._bytes -= size
            self._uploading[card.key] -= 1
        return Job(
            id=uuid.uuid4().hex,
            inputs={card.input.name: tensor},
            waiters=[self._orders.front],
            submitted=time.monotonic(),
            remaining_ms=max(1, int((wanted.deadline - time.monotonic()) * 1000)),
            request_id=logs.request_id.get(),
            subject=request.get(http.SUBJECT, ""),
            priority=wanted.priority,
            options=wanted.options,
            digest=digest,
            frame=frame,
        )

    def _ticket(self, request: web.Request) -> Ticket | None:
        if self._verifier is None:
            return None
        token = http.bearer(request, parameter="ticket")
        if token is None:
            raise MissingTicket
        ticket = self._verifier.verify(token)
        request[http.SUBJECT] = ticket.subject
        return ticket

    def _model(self, request: web.Request, ticket: Ticket | None) -> tuple[ModelState, ModelCard]:
        model, version = request.query.get("model"), request.query.get("version")
        if ticket is not None:
            permitted = ticket.model.rpartition("@")
            if model not in (None, permitted[0]) or version not in (None, permitted[2]):
                raise InvalidTicket("The ticket is for another model.")
            key: str | None = ticket.model
        elif model is None:
            key = next(iter(self._reports.state.models), None)
        elif version is not None:
            key = model_key(model, version)
        else:
            key = next((k for k in self._reports.state.models if k.rpartition("@")[0] == model), None)
        if not self._reports.is_informed:
            raise NotReady
        state = self._reports.state.models.get(key or "")
        if state is None:
            raise UnknownModel(f"There is no model {model or key!r} on this worker.")
        if state.card is None:
            raise NotReady(f"The model {key} is {state.status}.")
        return state, state.card

    def _admit(self, wanted: Wanted, size: int) -> None:
        """Refuse on the head of a request what there is no room for, before its body is read."""
        limits, key = self._limits, wanted.card.key
        busy = self._requests >= limits.in_flight or self._bytes + size > limits.in_flight_bytes
        room = limits.capacity if wanted.priority == "interactive" else bulk_capacity(limits.capacity)
        if busy or self._submissions.depths[key] + self._uploading[key] >= room:
            raise QueueFull(retry_after=self._wait_of(key))

    def _wait_of(self, key: str) -> float:
        state = self._reports.state.models.get(key)
        return self._submissions.depths[key] * (state.seconds_per_image if state else 0.0)

    async def _receive(self, request: web.Request, wanted: Wanted, timings: Timings) -> tuple[str, Tensor, Frame]:
        seconds = min(self._limits.upload_timeout, max(0.001, wanted.deadline - time.monotonic()))
        data = await http.read_image(request, wanted.limit, seconds)
        timings.mark("receive")
        work = partial(self._decode, data, wanted.card, wanted.deadline)
        decoded = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        timings.mark("decode")
        return decoded

    def _decode(self, data: bytes, card: ModelCard, deadline: float) -> tuple[str, Tensor, Frame]:
        if time.monotonic() > deadline:
            raise DeadlineExceeded
        pixels, frame = decode(data, card.input, max_pixels=self._limits.max_pixels)
        tensor = Tensor(str(pixels.dtype), pixels.shape, pixels.tobytes())
        return hashlib.sha256(data).hexdigest(), tensor, frame

    async def _response(
        self,
        shape: Callable[[dict[str, Any]], object],
        card: ModelCard,
        reply: Reply,
        timings: Timings,
        ticket: Ticket | None,
    ) -> web.Response:
        timings.mark("wait")
        timings.stages |= {"queue": reply.queue_ms, "inference": reply.inference_ms}
        for stage, ms in timings.stages.items():
            self._metrics.stage.labels(card.key, stage).observe(ms / 1000)
        document = {
            "success": True,
            **(reply.answer or {}),
            "model": card.model,
            "version": card.version,
            "digest": card.digest,
            "worker": self._orders.worker,
            "request_id": logs.request_id.get(),
            "attempt": reply.attempt,
            "batch_size": reply.batch_size,
            "timings": {stage: round(ms, 2) for stage, ms in timings.stages.items()},
        }
        headers = {"Server-Timing": timings.header()}
        if ticket is not None and not ticket.uses:  # a gateway's own; a client has no use for it
            with suppress(NotReady):
                headers[http.LOAD] = msgspec.json.encode(await self._reports.report(ticket.gateway)).decode()
        return http.json_response(shape(document), headers=headers)

    @staticmethod
    def _whole(document: dict[str, Any]) -> object:
        return document

    @staticmethod
    def _pairs(document: dict[str, Any]) -> object:
        """The second origin system's shape: a list of [label, score]."""
        return [[p["label"], p["probability"]] for p in document["predictions"]]

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
        return http.json_response({"ready": True})

    async def _live(self, request: web.Request) -> web.Response:
        return http.json_response({"live": True})

    async def _welcome(self, request: web.Request) -> web.Response:
        return web.Response(text="Welcome to Shoal. This is a worker: POST an image to /predict with a ticket.\n")

    async def _exposition(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(metrics.exposition, CollectorRegistry())
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})


@asynccontextmanager
async def _serving(front: Front, orders: Orders) -> AsyncIterator[None]:
    """Both listeners, on the sockets that the supervisor bound."""
    drain_timeout = orders.limits.drain_timeout
    public = [socket.socket(fileno=number) for number in orders.public_sockets]
    internal = [socket.socket(fileno=number) for number in orders.internal_sockets]
    async with (
        service.listening(front.internal_app(), internal, drain_timeout=drain_timeout),
        service.listening(front.public_app(), public, drain_timeout=drain_timeout),
    ):
        yield


async def _main() -> int:
    stop = service.Stop()
    stop.listen()
    lines = service.lines_of_stdin()
    orders = msgspec.json.decode(await anext(lines), type=Orders)
    logs.configure(orders.log_level, role="front", front=orders.front, pid=str(os.getpid()))
    limits = orders.limits
    front_metrics = metrics.FrontMetrics(CollectorRegistry())
    with ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="decode") as decoders:
        async with (
            Queue.connect(orders.redis) as queue,
            Submissions.open(
                queue,
                orders.front,
                capacity=limits.capacity,
                capacity_bytes=limits.capacity_bytes,
                metrics=front_metrics,
            ) as submissions,
        ):
            front = Front(orders, queue, submissions, decoders, front_metrics)
            async with service.background(front.follow(lines)), _serving(front, orders):
                processes.tell_parent({"event": "ready"})
                await stop.requested()
    return 0


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(service.run(_main()))
