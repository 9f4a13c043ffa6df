"""A front's side of the queue: submit the jobs of a request, wait for their replies, submit again what was lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal.errors import DeadlineExceeded, Quarantined, QueueFull, ShoalError, SpentTicket, from_code
from shoal.metrics import FrontMetrics
from shoal.tickets import Ticket
from shoal.wire import Job, Reply, unpack_reply
from worker.jobs import Kept, Looked, Offer, Refused, Submitted
from worker.queue import Queue, QueueUnavailable
from worker.together import together

log = logging.getLogger(__name__)

_RETRY = 0.05
_READ_WAIT = 1.0
_TRIM_EVERY = 256

_REFUSALS: dict[str, type[ShoalError]] = {"full": QueueFull, "spent": SpentTicket, "quarantined": Quarantined}

CacheState = Literal["hit", "miss", "shared", "off"]


class _FlightLost(Exception):
    """Redis was replaced, and of this image there is no job that could be submitted again."""


@dataclass
class Use:
    """One use of a ticket by one request. Once it is ``bound``, the queue counts the request, and nobody else does."""

    ticket: Ticket | None = None
    bound: bool = False

    @property
    def terms(self) -> dict[str, Any]:
        """How the queue is told of it, which is done once."""
        if self.ticket is None or self.bound:
            return {}
        return {"ticket": self.ticket.id, "uses": self.ticket.uses, "gateway": self.ticket.gateway}


@dataclass(frozen=True)
class Answered:
    """A reply, and what the cache had to do with it."""

    reply: Reply
    cache: CacheState


@dataclass
class _Pending:
    """An image without an answer. ``submitted`` is None while Redis has not accepted it."""

    key: str
    offer: Offer
    reply: asyncio.Future[Reply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    submitted: Submitted | None = None
    cache: CacheState = "off"

    def settle(self, outcome: Submitted | Kept) -> None:
        if isinstance(outcome, Kept):
            self.cache = "hit"
            if not self.reply.done():
                self.reply.set_result(unpack_reply(outcome.reply))
            return
        self.submitted = outcome
        if self.offer.sharing is not None and self.offer.sharing.reads:
            self.cache = "shared" if outcome.joined else "miss"

    def begin_again(self) -> None:
        self.reply, self.submitted = asyncio.get_running_loop().create_future(), None

    def is_anothers_failure(self, reply: Reply) -> bool:
        """Whether the job was another's, which had less time than we have."""
        return reply.code == DeadlineExceeded.code and reply.job != self.offer.id


class Submissions:
    """All unanswered images of one front. Construct with ``Submissions.open``."""

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
        """As ``answer_all``, for one job that shares nothing."""
        offer = Offer(job.id, self._front, job.digest, job.deadline, job.priority, job=job)
        return (await self.answer_all(key, [offer], Use(ticket)))[0].reply

    async def answer_all(self, key: str, offers: Sequence[Offer], use: Use) -> list[Answered]:
        """Submit the jobs of one request to the queue of ``key``, and wait for their replies until its deadline.

        Raises ``QueueFull``, ``SpentTicket``, ``Quarantined``, ``DeadlineExceeded``, or the first error that a reply
        names. When the caller is cancelled, the deadline passes or one fails, unclaimed jobs are taken back.
        """
        pending = self._await_all(key, offers)
        try:
            async with asyncio.timeout_at(offers[0].deadline):
                await self._submit(pending, use)
                return await together([self._answer_to(one) for one in pending])
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._give_up(pending)

    async def find(self, key: str, offers: Sequence[Offer], use: Use) -> list[Answered | None]:
        """The answers of one request's images as far as others' executions give them; None for what must be submitted.

        Raises what ``answer_all`` raises. Without Redis nothing is found.
        """
        pending = self._await_all(key, offers)
        try:
            async with asyncio.timeout_at(offers[0].deadline):
                looked = await self._look(key, offers, use)
                if looked is None:
                    return [None] * len(offers)
                for one, outcome in zip(pending, looked.found, strict=True):
                    if outcome is not None:
                        self._settle(one, outcome)
                return await together([self._found(one) for one in pending])
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._give_up(pending)

    async def _look(self, key: str, offers: Sequence[Offer], use: Use) -> Looked | None:
        looking = asyncio.create_task(self._queue.look(key, offers, **use.terms))
        use.bound = True  # whatever becomes of us, it is seen to
        try:
            looked = await asyncio.shield(looking)
        except asyncio.CancelledError:
            self._run_in_background(self._unlook(key, looking, use.ticket))
            raise
        except QueueUnavailable:
            use.bound = False
            return None
        if isinstance(looked, Refused):
            raise refusal(looked)
        use.bound = looked.complete
        return looked

    async def _unlook(self, key: str, looking: asyncio.Task[Looked | Refused], ticket: Ticket | None) -> None:
        """Leave the flights that were joined; a request that came and joined none has come all the same."""
        with suppress(QueueUnavailable):
            looked = await looking
            if isinstance(looked, Refused):
                return
            if not looked.complete and ticket is not None:
                await self._arrive(key, ticket, "")
            for outcome in looked.found:
                if isinstance(outcome, Submitted):
                    await self._queue.leave(outcome)

    def arrived(self, key: str, ticket: Ticket, *, spend: bool) -> None:
        """Count a request that never became a job, so that its gateway does not wait for it."""
        self._run_in_background(self._arrive(key, ticket, ticket.id if spend and ticket.uses else ""))

    async def _arrive(self, key: str, ticket: Ticket, spent: str) -> None:
        with suppress(QueueUnavailable):
            await self._queue.arrive(key, ticket.gateway, ticket=spent)

    # Waiting

    def _await_all(self, key: str, offers: Sequence[Offer]) -> list[_Pending]:
        pending = [_Pending(key, offer) for offer in offers]
        self._pending |= {one.offer.id: one for one in pending}
        return pending

    def _give_up(self, pending: Sequence[_Pending]) -> None:
        for one in pending:
            self._pending.pop(one.offer.id, None)
            if one.submitted is not None and (not one.reply.done() or one.reply.cancelled()):
                self._run_in_background(self._cancel(one.key, one.submitted))

    async def _answer_to(self, one: _Pending) -> Answered:
        reply = await one.reply
        while one.is_anothers_failure(reply):
            one.begin_again()
            await self._submit([one], Use())
            reply = await one.reply
        if reply.code:
            raise from_code(reply.code, reply.message)
        return Answered(reply, one.cache)

    async def _found(self, one: _Pending) -> Answered | None:
        if one.submitted is None and not one.reply.done():
            return None
        try:
            reply = await one.reply
        except _FlightLost:
            return None
        if one.is_anothers_failure(reply):
            return None
        if reply.code:
            raise from_code(reply.code, reply.message)
        return Answered(reply, one.cache)

    # Submitting

    async def _submit(self, pending: Sequence[_Pending], use: Use) -> None:
        terms = use.terms
        use.bound = True
        while waiting := [one for one in pending if not one.reply.done()]:
            submitting = asyncio.create_task(self._submit_once(waiting, terms))
            try:
                outcomes = await asyncio.shield(submitting)
            except asyncio.CancelledError:  # Redis may have the jobs all the same
                self._run_in_background(self._undo(waiting[0].key, submitting))
                raise
            except QueueUnavailable:
                await asyncio.sleep(_RETRY)
                continue
            if isinstance(outcomes, Refused):
                self.depths[waiting[0].key] = outcomes.depth
                raise refusal(outcomes)
            for one, outcome in zip(waiting, outcomes, strict=True):
                self._settle(one, outcome)
            return

    def _settle(self, one: _Pending, outcome: Submitted | Kept) -> None:
        one.settle(outcome)
        if isinstance(outcome, Submitted):
            self.depths[one.key] = outcome.depth
            log.debug("joined" if outcome.joined else "submitted", extra={"job": one.offer.id})

    async def _submit_once(
        self, pending: Sequence[_Pending], terms: dict[str, Any]
    ) -> list[Submitted | Kept] | Refused:
        offers = [one.offer for one in pending]
        return await self._queue.submit_all(
            pending[0].key, offers, capacity=self._capacity, capacity_bytes=self._capacity_bytes, **terms
        )

    async def _undo(self, key: str, submitting: asyncio.Task[list[Submitted | Kept] | Refused]) -> None:
        with suppress(QueueUnavailable):
            outcomes = await submitting
            for outcome in () if isinstance(outcomes, Refused) else outcomes:
                if isinstance(outcome, Submitted):
                    await self._cancel(key, outcome)

    async def _cancel(self, key: str, submitted: Submitted) -> None:
        with suppress(QueueUnavailable):
            if submitted.flight:
                where = await self._queue.leave(submitted)
            else:
                taken_back = await self._queue.cancel(key, submitted)
                where = "queued" if taken_back else "claimed"
            if where != "shared":
                self._metrics.cancelled.labels(where).inc()

    # Replies

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
                after, replies = await self._queue.addressed_replies(self._front, after, _READ_WAIT)
                for data, addressees in replies:
                    self._hand_out(unpack_reply(data), addressees)
                untrimmed += len(replies)
                if untrimmed >= _TRIM_EVERY:
                    untrimmed = 0
                    await self._queue.trim_replies(self._front, after)
            except QueueUnavailable as error:
                log.warning("queue unavailable", extra={"error": str(error), "unanswered": len(self._pending)})
                connected = False
                await asyncio.sleep(_RETRY)

    def _hand_out(self, reply: Reply, addressees: Sequence[str]) -> None:
        for name in addressees or (reply.job,):
            pending = self._pending.get(name)
            if pending is not None and not pending.reply.done():
                if name == reply.job:
                    self.depths[pending.key] = max(0, self.depths[pending.key] - 1)
                pending.reply.set_result(reply)
            elif not addressees:  # nobody waits any more, or a duplicate
                self._metrics.wasted.inc(reply.inference_ms / 1000 / max(1, reply.batch_size))

    async def _resubmit(self) -> None:
        lost = 0
        for pending in list(self._pending.values()):
            if pending.submitted is None or pending.reply.done():
                continue
            if await self._queue.holds(pending.key, pending.submitted):
                continue  # it was the new Redis that took it
            lost += 1
            await self._resubmit_one(pending)
        if lost:
            self._metrics.resubmitted.inc(lost)
            log.warning("jobs submitted again: Redis was replaced", extra={"jobs": lost})

    async def _resubmit_one(self, pending: _Pending) -> None:
        """Give a new Redis what it should have; of equal images the first one begins the flight again."""
        if pending.offer.job is None:
            pending.reply.set_exception(_FlightLost())
            return
        outcome = await self._queue.submit_all(
            pending.key, [pending.offer], capacity=2 * self._capacity, capacity_bytes=2 * self._capacity_bytes
        )
        if not isinstance(outcome, Refused):
            pending.settle(outcome[0])
        elif not pending.reply.done():
            pending.reply.set_exception(refusal(outcome))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def refusal(refused: Refused) -> ShoalError:
    """The error that says why a request was not accepted."""
    error = _REFUSALS[refused.reason]
    return error(f"Image {refused.number}: {error.summary}") if refused.number > 1 else error()
