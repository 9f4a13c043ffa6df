"""A front's side of the queue: submit a job, wait for its reply, submit again what a dead Redis forgot."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from shoal.errors import DeadlineExceeded, Quarantined, QueueFull, ShoalError, SpentTicket, from_code
from shoal.metrics import FrontMetrics
from shoal.tickets import Ticket
from shoal.wire import Job, Reply, unpack_reply
from worker.jobs import Refused, Submitted
from worker.queue import Queue, QueueUnavailable

log = logging.getLogger(__name__)

_RETRY = 0.05
_READ_WAIT = 1.0
_TRIM_EVERY = 256

_REFUSALS: dict[str, type[ShoalError]] = {"full": QueueFull, "spent": SpentTicket, "quarantined": Quarantined}


@dataclass
class _Pending:
    """A job without an answer. ``submitted`` is None while Redis has not accepted it."""

    key: str
    job: Job
    reply: asyncio.Future[Reply]
    submitted: Submitted | None = None


class Submissions:
    """All unanswered jobs of one front. Construct with ``Submissions.open``."""

    def __init__(self, queue: Queue, front: str, *, capacity: int, capacity_bytes: int, metrics: FrontMetrics) -> None:
        self._queue = queue
        self._front = front
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._metrics = metrics
        self._pending: dict[str, _Pending] = {}
        self.depths: Counter[str] = Counter()
        self._background: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Submissions of {self._front}: {len(self._pending)} unanswered>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls, queue: Queue, front: str, *, capacity: int, capacity_bytes: int, metrics: FrontMetrics
    ) -> AsyncIterator[Submissions]:
        submissions = cls(queue, front, capacity=capacity, capacity_bytes=capacity_bytes, metrics=metrics)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(submissions._read())
            try:
                yield submissions
            finally:
                reader.cancel()
                while submissions._background:
                    await asyncio.wait(submissions._background)
                with suppress(QueueUnavailable):
                    await queue.forget_front(front)

    async def answer(self, key: str, job: Job, *, ticket: Ticket | None = None) -> Reply:
        """Submit ``job`` to the queue of ``key`` and wait for its reply until its deadline.

        Raises ``QueueFull``, ``SpentTicket``, ``Quarantined``, ``DeadlineExceeded``, or the error that the reply names.
        When the caller is cancelled, or the deadline passes, an unclaimed job is taken back.
        """
        loop = asyncio.get_running_loop()
        pending = _Pending(key, job, loop.create_future())
        self._pending[job.id] = pending
        try:
            async with asyncio.timeout_at(job.deadline):
                await self._submit(pending, ticket)
                reply = await pending.reply
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            del self._pending[job.id]
            if pending.submitted is not None and (not pending.reply.done() or pending.reply.cancelled()):
                self._run_in_background(self._cancel(key, pending.submitted))
        if reply.code:
            raise from_code(reply.code, reply.message)
        return reply

    def arrived(self, key: str, ticket: Ticket, *, spend: bool) -> None:
        """Count a request that never became a job, so that its gateway does not wait for it."""
        self._run_in_background(self._arrive(key, ticket, ticket.id if spend and ticket.uses else ""))

    async def _arrive(self, key: str, ticket: Ticket, spent: str) -> None:
        with suppress(QueueUnavailable):
            await self._queue.arrive(key, ticket.gateway, ticket=spent)

    async def _submit(self, pending: _Pending, ticket: Ticket | None) -> None:
        while not pending.reply.done():
            submitting = asyncio.create_task(self._submit_once(pending, ticket))
            try:
                outcome = await asyncio.shield(submitting)
            except asyncio.CancelledError:  # Redis may have the job all the same
                self._run_in_background(self._undo(pending.key, submitting))
                raise
            except QueueUnavailable:
                await asyncio.sleep(_RETRY)
                continue
            self.depths[pending.key] = outcome.depth
            if isinstance(outcome, Refused):
                raise _REFUSALS[outcome.reason]
            pending.submitted = outcome
            log.debug("submitted", extra={"job": pending.job.id})
            return

    async def _submit_once(self, pending: _Pending, ticket: Ticket | None) -> Submitted | Refused:
        return await self._queue.submit(
            pending.key,
            pending.job,
            capacity=self._capacity,
            capacity_bytes=self._capacity_bytes,
            ticket=ticket.id if ticket else "",
            uses=ticket.uses if ticket else 0,
            gateway=ticket.gateway if ticket else "",
        )

    async def _undo(self, key: str, submitting: asyncio.Task[Submitted | Refused]) -> None:
        with suppress(QueueUnavailable):
            outcome = await submitting
            if isinstance(outcome, Submitted):
                await self._cancel(key, outcome)

    async def _read(self) -> None:
        """Hand out replies as they come. A Redis with another run id has forgotten what it was given."""
        after, known, untrimmed, connected = b"0-0", "", 0, False
        while True:
            try:
                if not connected:
                    run_id = await self._queue.run_id()
                    if known not in ("", run_id):
                        after = b"0-0"
                        await self._resubmit()
                    known, connected = run_id, True
                after, replies = await self._queue.replies(self._front, after, _READ_WAIT)
                for data in replies:
                    self._hand_out(unpack_reply(data))
                untrimmed += len(replies)
                if untrimmed >= _TRIM_EVERY:
                    untrimmed = 0
                    await self._queue.trim_replies(self._front, after)
            except QueueUnavailable as error:
                log.warning("queue unavailable", extra={"error": str(error), "unanswered": len(self._pending)})
                connected = False
                await asyncio.sleep(_RETRY)

    def _hand_out(self, reply: Reply) -> None:
        pending = self._pending.get(reply.job)
        if pending is None or pending.reply.done():  # nobody waits any more, or a duplicate
            self._metrics.wasted.inc(reply.inference_ms / 1000 / max(1, reply.batch_size))
            return
        self.depths[pending.key] = max(0, self.depths[pending.key] - 1)
        pending.reply.set_result(reply)

    async def _resubmit(self) -> None:
        lost = 0
        for pending in list(self._pending.values()):
            if pending.submitted is None or pending.reply.done():
                continue
            if await self._queue.holds(pending.key, pending.submitted):
                continue  # it was the new Redis that took it
            lost += 1
            outcome = await self._queue.submit(
                pending.key, pending.job, capacity=2 * self._capacity, capacity_bytes=2 * self._capacity_bytes
            )
            if isinstance(outcome, Submitted):
                pending.submitted = outcome
            elif not pending.reply.done():
                pending.reply.set_exception(_REFUSALS[outcome.reason]())
        if lost:
            self._metrics.resubmitted.inc(lost)
            log.warning("jobs submitted again: Redis was replaced", extra={"jobs": lost})

    async def _cancel(self, key: str, submitted: Submitted) -> None:
        with suppress(QueueUnavailable):
            taken_back = await self._queue.cancel(key, submitted)
            self._metrics.cancelled.labels("queued" if taken_back else "claimed").inc()

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
