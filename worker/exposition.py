"""What a worker's ``/metrics`` says: what all processes of the node have counted, and how it is at this moment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from shoal import metrics
from shoal.errors import NotReady
from shoal.metrics import CertificateExpiry, NodeMetrics
from shoal.tls import Certificate
from shoal.wire import LoadReport
from worker.load_reports import LoadReports
from worker.queue import Queue, QueueUnavailable

_PAGE = os.sysconf("SC_PAGE_SIZE")


async def response(
    registry: CollectorRegistry, reports: LoadReports, queue: Queue, certificates: Sequence[Certificate] = ()
) -> web.Response:
    """The whole of it; what a node without a queue or a supervisor cannot know is left out."""
    now = NodeMetrics()
    if reports.is_informed:
        _add_state(now, reports)
    with suppress(NotReady):
        _add_load(now, await reports.report(""))
    if reports.caches:
        with suppress(QueueUnavailable):
            now.cache_bytes.add_metric([], await queue.cached_bytes())
    text = await asyncio.to_thread(_text, registry, now, reports.state.pids, CertificateExpiry(certificates))
    return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})


def _add_state(now: NodeMetrics, reports: LoadReports) -> None:
    state = reports.state
    now.draining.add_metric([], state.draining)
    for key, model in state.models.items():
        now.ready.add_metric([key], model.status == "ready")
        now.processes.add_metric([key], model.processes)
        now.cost.add_metric([key], model.seconds_per_image)
    for role, pids in state.pids.items():
        now.running.add_metric([role], len(pids))


def _add_load(now: NodeMetrics, report: LoadReport) -> None:
    for key, load in report.models.items():
        now.depth.add_metric([key, "bulk"], load.bulk_depth)
        now.depth.add_metric([key, "interactive"], load.queue_depth - load.bulk_depth)
        now.capacity.add_metric([key], load.capacity)


def _text(
    registry: CollectorRegistry, now: NodeMetrics, pids: Mapping[str, Sequence[int]], expiry: CertificateExpiry
) -> bytes:
    for role, processes in pids.items():
        now.memory.add_metric([role], sum(map(_resident, processes)))
    return metrics.exposition(registry, now, expiry)


def _resident(pid: int) -> int:
    """The bytes of a process in memory; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
