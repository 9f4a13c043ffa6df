"""The worker's HTTP process: a front with all that it needs, from its orders to its end.

python -m worker.front_process     (the supervisor starts it and writes its orders to standard input)
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from shoal import logs, metrics, processes, service, tls
from shoal.traces import tracing
from worker.fetching import Fetcher
from worker.front import Front
from worker.front_orders import Orders
from worker.job_records import JobRecords
from worker.job_requests import JobRequests
from worker.queue import Queue
from worker.receiving import Receiver
from worker.submissions import Submissions


@asynccontextmanager
async def _serving(
    front: Front, orders: Orders, public_certificate: tls.Certificate | None, certificate: tls.Certificate | None
) -> AsyncIterator[None]:
    """Both listeners, on the sockets that the supervisor bound."""
    drain_timeout = orders.limits.drain_timeout
    public = [socket.socket(fileno=number) for number in orders.public_sockets]
    internal = [socket.socket(fileno=number) for number in orders.internal_sockets]
    async with (
        service.listening(front.internal_app(), internal, drain_timeout=drain_timeout, certificate=certificate),
        service.listening(front.public_app(), public, drain_timeout=drain_timeout, certificate=public_certificate),
    ):
        yield


def _files(names: tuple[str, ...]) -> tls.Files | None:
    return tls.Files(*map(Path, names)) if names else None


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
            JobRecords.connect(orders.redis) as records,
            Submissions.open(
                queue,
                orders.front,
                capacity=limits.capacity,
                capacity_bytes=limits.capacity_bytes,
                metrics=front_metrics,
            ) as submissions,
            Fetcher.open(
                hosts=limits.url_hosts,
                networks=limits.url_networks,
                timeout=limits.url_timeout,
                most=limits.url_fetches,
            ) as fetcher,
            tracing("front", orders.front) as tracer,
            tls.followed(_files(orders.public_certificate), "public") as public_certificate,
            tls.followed(_files(orders.internal_certificate), "internal") as certificate,
        ):
            jobs = JobRequests.of(orders, records, front_metrics)
            receiver = Receiver(limits, decoders, fetcher)
            certificates = [public_certificate, certificate]
            front = Front(orders, queue, submissions, receiver, jobs, front_metrics, tracer, certificates)
            async with service.background(front.follow(lines)), _serving(front, orders, *certificates):
                processes.tell_parent({"event": "ready"})
                await stop.requested()
    return 0


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(service.run(_main()))
