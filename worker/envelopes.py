"""The envelope in which an item of a request travels through the queue."""

from __future__ import annotations

import time

from shoal import logs
from shoal.wire import Job
from worker.asking import Wanted
from worker.jobs import Offer
from worker.receiving import Decoded


def job_of(asked: Wanted, offer: Offer, decoded: Decoded, group: str, subject: str, trace: str) -> Job:
    """The job of one item; ``trace`` is the ``traceparent`` of its request."""
    return Job(
        id=offer.id,
        inputs={asked.card.input.name: decoded.tensor},
        waiters=[offer.front],
        submitted=time.monotonic(),
        remaining_ms=max(1, int((asked.deadline - time.monotonic()) * 1000)),
        request_id=logs.request_id.get(),
        subject=subject,
        trace_id=trace,
        priority=asked.priority,
        group=group,
        options=asked.options,
        digest=decoded.digest,
        frame=decoded.frame,
        flight=offer.sharing.flight if offer.sharing else "",
        outputs=asked.outputs,
    )
