"""A whole node inside the test's process: a real Redis, real fronts behind HTTP, real executors of fake models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import aiohttp
import msgspec
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from shoal import service
from shoal.metrics import FrontMetrics, ModelMetrics
from shoal.wire import ModelCard, ModelState, NodeState
from tests.redis_servers import RedisServer
from worker.fetching import Fetcher, Resolve, resolve
from worker.front import Front
from worker.front_orders import Limits, Orders
from worker.job_records import JobRecords
from worker.job_requests import JobRequests
from worker.model_process import Executor
from worker.models.fake import Fake, load
from worker.models.runtime import Array, Asked, Runtime
from worker.queue import Queue
from worker.receiving import Receiver
from worker.submissions import Submissions

LIMITS = Limits(
    max_body_bytes=1 << 20,
    max_pixels=1_000_000,
    request_timeout=20.0,
    longest_timeout=30.0,
    upload_timeout=10.0,
    drain_timeout=1.0,
    decode_threads=2,
    in_flight=2000,
    in_flight_bytes=1 << 30,
    capacity=512,
    capacity_bytes=1 << 28,
)
CACHING: dict[str, Any] = {"cache_bytes": 1 << 20}


@dataclass
class Held:
    """A fake model that stands still until ``released``, and can be told what to raise."""

    card: ModelCard
    inner: Runtime
    released: Event = field(default_factory=Event)
    seen: list[int] = field(default_factory=list)

    def warm_up(self) -> None:
        """Nothing to do."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        self.seen.append(len(batch))
        assert self.released.wait(20)
        return self.inner.run(batch, asked)


def fake(name: str = "fake", *, held: bool = False, **parameters: str) -> Runtime:
    """The ``fake`` model under another name."""
    runtime = load(version="1", **parameters)
    assert isinstance(runtime, Fake)
    card = msgspec.structs.replace(runtime.card, model=name)
    named = Fake(card, runtime.seconds_per_execution, runtime.seconds_per_image, fail_on=runtime.fail_on)
    return Held(card, named) if held else named


@dataclass
class Node:
    """The node as a test sees it."""

    queue: Queue
    session: aiohttp.ClientSession
    urls: list[str]
    registries: list[CollectorRegistry]
    executing: Callable[[], None]

    async def post(self, path: str = "/predict", *, front: int = 0, **options: Any) -> tuple[int, Any, Any]:
        async with self.session.post(self.urls[front] + path, **options) as response:
            body = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, msgspec.json.decode(body) if is_json else body, response.headers

    def counted(self, name: str, **labels: str) -> float:
        return sum(registry.get_sample_value(name, labels) or 0.0 for registry in self.registries)


async def _states(models: Iterable[Runtime]) -> AsyncIterator[bytes]:
    state = NodeState(models={m.card.key: ModelState("ready", m.card, 1, 0.001) for m in models})
    while True:
        yield msgspec.json.encode(state)
        await asyncio.sleep(1)


@asynccontextmanager
async def node(
    server: RedisServer,
    *models: Runtime,
    fronts: int = 1,
    executing: bool = True,
    resolve: Resolve = resolve,
    **limits: Any,
) -> AsyncIterator[Node]:
    """Fronts and executors over ``server``. Unless ``executing``, nothing is claimed until ``Node.executing``."""
    chosen = msgspec.structs.replace(LIMITS, **limits)
    stop, begin = service.Stop(), asyncio.Event()
    if executing:
        begin.set()
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(Queue.connect(str(server.socket)))
        registries = [CollectorRegistry()]
        metrics = ModelMetrics(registries[0])
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(stop.request)
        stack.callback(begin.set)
        for runtime in models:
            await queue.prepare(runtime.card.key)
            executor = Executor(runtime, queue, f"{runtime.card.key}/p", metrics, size=runtime.card.max_batch_size)
            stack.enter_context(closing(executor))
            tasks.create_task(_execute(executor, begin, stop))
        urls = []
        for number in range(fronts):
            registries.append(CollectorRegistry())
            opened = _front(server, f"front{number}", chosen, models, registries[-1], resolve)
            urls.append(await stack.enter_async_context(opened))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        yield Node(queue, session, urls, registries, begin.set)


async def _execute(executor: Executor, begin: asyncio.Event, stop: service.Stop) -> None:
    await begin.wait()
    await executor.serve(stop)


@asynccontextmanager
async def _front(
    server: RedisServer,
    name: str,
    limits: Limits,
    models: Sequence[Runtime],
    registry: CollectorRegistry,
    resolve: Resolve,
) -> AsyncIterator[str]:
    orders = Orders(name, "worker", "i", None, str(server.socket), [], [], "", limits, "error")
    metrics = FrontMetrics(registry)
    with ThreadPoolExecutor(limits.decode_threads) as decoders:
        async with (
            Queue.connect(orders.redis) as queue,
            JobRecords.connect(orders.redis) as records,
            Submissions.open(
                queue, name, capacity=limits.capacity, capacity_bytes=limits.capacity_bytes, metrics=metrics
            ) as submissions,
            Fetcher.open(
                hosts=limits.url_hosts,
                networks=limits.url_networks,
                timeout=limits.url_timeout,
                most=limits.url_fetches,
                resolve=resolve,
            ) as fetcher,
        ):
            jobs = JobRequests.of(orders, records, metrics, resolve)
            front = Front(orders, queue, submissions, Receiver(limits, decoders, fetcher), jobs, metrics)
            async with service.background(front.follow(_states(models))):
                test_server = TestServer(front.internal_app(), handler_cancellation=True)
                await test_server.start_server()
                try:
                    yield str(test_server.make_url("")).rstrip("/")
                finally:
                    await test_server.close()
