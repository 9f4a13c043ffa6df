"""The node's job queue on its co-located Redis, and what equal images share there.

Every change of several keys (``worker/redis_keys.py``) is one script (``queue_scripts/``), so a process killed between
two steps leaves no half-done job. Written to the commands of Redis 6.2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from shoal.errors import NotReady
from shoal.wire import Job, Quarantined, Reply, pack, unpack_job, unpack_quarantined
from worker.jobs import Claimed, Kept, Looked, Observed, Offer, Refused, Submitted
from worker.offering import GROUP, TICKET_LIFETIME_MS, bulk_capacity, keys_of, outcome_of, words_of
from worker.redis_client import QueueUnavailable, connected, is_out_of_memory, scripts, translated
from worker.redis_keys import (
    GATEWAYS,
    arrived_of,
    bytes_of,
    claims_of,
    quarantine_of,
    replies_of,
    streams_of,
    ticket_of,
    waiters_of,
)

__all__ = ["Queue", "QueueUnavailable", "bulk_capacity"]

log = logging.getLogger(__name__)

_REPLY_LIFETIME_MS = 60_000
_REPLY_MAXLEN = 100_000  # a front trims long before; this bounds the stream of one that hangs
_MAX_SOLO_DEATHS = 2
_BULK_TURN = 8  # one in so many places, or claims of one, is for bulk jobs, so that they never starve
_GATEWAY_LIFETIME_MS = 3_000  # a gateway that has not polled for so long shares no slots
_MOST_QUARANTINED = 10_000


class Queue:
    """The queues and reply streams of one node. Construct with ``Queue.connect``."""

    def __init__(self, client: aioredis.Redis, blocking: aioredis.Redis) -> None:
        self._client = client
        self._blocking = blocking
        self._scripts = scripts(client)

    @classmethod
    @asynccontextmanager
    async def connect(cls, path: str) -> AsyncIterator[Queue]:
        """The node's queue, over the Redis that listens at the socket ``path``. Connects on first use."""
        async with connected(path) as (client, blocking):
            yield cls(client, blocking)

    async def run_id(self) -> str:
        """The identity of the running Redis: another one has forgotten every job."""
        async with translated():
            info = await self._client.info("server")
        return str(info["run_id"])

    async def submit(
        self,
        key: str,
        job: Job,
        *,
        capacity: int,
        capacity_bytes: int,
        ticket: str = "",
        uses: int = 0,
        gateway: str = "",
    ) -> Submitted | Refused:
        """Add a job, spending one use of its ticket, or refuse it: all of it or nothing.

        A job that comes by leave of a ``gateway`` counts as arrived either way.
        """
        offer = Offer(job.id, job.waiters[0] if job.waiters else "", job.digest, job.deadline, job.priority, None, job)
        outcome = await self.submit_all(
            key, [offer], capacity=capacity, capacity_bytes=capacity_bytes, ticket=ticket, uses=uses, gateway=gateway
        )
        if isinstance(outcome, Refused):
            return outcome
        assert isinstance(outcome[0], Submitted)
        return outcome[0]

    async def submit_all(
        self,
        key: str,
        offers: Sequence[Offer],
        *,
        capacity: int,
        capacity_bytes: int,
        ticket: str = "",
        uses: int = 0,
        gateway: str = "",
    ) -> list[Submitted | Kept] | Refused:
        """Add the jobs of one request, spending one use of its ticket, or refuse it: all of it or nothing.

        An offer with ``sharing`` is answered from the cache, or joins the flight of its name, where there is one.
        """
        packed = [pack(offer.job) if offer.job else b"" for offer in offers]
        room = capacity if offers[0].priority == "interactive" else bulk_capacity(capacity)
        try:
            word, depth, found = await self._offer(key, offers, packed, room, capacity_bytes, ticket, uses, gateway)
        except ResponseError as error:
            if not is_out_of_memory(error):
                raise
            return Refused("full", await self.depth(key))
        if word != b"ok":
            return Refused(word.decode(), depth, found)
        return [
            outcome_of(kind, value, offer, depth, len(data))
            for (kind, value), offer, data in zip(found, offers, packed, strict=True)
        ]

    async def look(
        self, key: str, offers: Sequence[Offer], *, ticket: str = "", uses: int = 0, gateway: str = ""
    ) -> Looked | Refused:
        """What is in the cache or in flight of the images of one request. Nothing is submitted.

        When that is every image, the request joins the flights, has come, and has spent a use of its ticket; else
        nothing is changed.
        """
        nothing = [b""] * len(offers)
        async with translated():
            word, depth, found = await self._offer(key, offers, nothing, 0, 0, ticket, uses, gateway)
        if word not in (b"ok", b"incomplete"):
            return Refused(word.decode(), depth, found)
        outcomes = [
            outcome_of(kind, value, offer, depth, 0) if kind == b"kept" or word == b"ok" else None
            for (kind, value), offer in zip(found, offers, strict=True)
        ]
        return Looked(word == b"ok", outcomes)

    async def _offer(
        self,
        key: str,
        offers: Sequence[Offer],
        packed: Sequence[bytes],
        room: int,
        room_bytes: int,
        ticket: str,
        uses: int,
        gateway: str,
    ) -> Any:
        words = words_of(offers, packed, room, room_bytes, uses=uses, gateway=gateway)
        async with translated(full=False):
            return await self._scripts["submit"](keys_of(key, ticket), words)

    async def arrive(self, key: str, gateway: str, *, ticket: str = "") -> None:
        """Count a request that never became a job as arrived, and spend one use of ``ticket``, if any, on it."""
        if not gateway and not ticket:
            return
        async with translated(), self._client.pipeline(transaction=True) as pipe:
            if gateway:
                pipe.hincrby(arrived_of(key), gateway, 1)
            if ticket:
                pipe.incr(ticket_of(ticket))
                pipe.pexpire(ticket_of(ticket), TICKET_LIFETIME_MS)
            await pipe.execute()

    async def cancel(self, key: str, submitted: Submitted) -> bool:
        """Take a job back that no process has claimed yet. False when it is too late."""
        stream = streams_of(key)[submitted.priority == "bulk"]
        async with translated():
            return bool(
                await self._scripts["cancel"]([stream, bytes_of(key)], [GROUP, submitted.entry, submitted.size])
            )

    async def leave(self, submitted: Submitted) -> Literal["shared", "queued", "claimed"]:
        """Wait for a flight no longer. Its job is taken back when nobody else waits and no process has claimed it.

        Returns whether others share it, or where the job was.
        """
        async with translated():
            where = await self._scripts["leave"]([], [GROUP, submitted.flight, submitted.id])
        return "shared" if where == b"shared" else "queued" if where == b"queued" else "claimed"

    async def holds(self, key: str, submitted: Submitted) -> bool:
        """Whether the job is still in the queue, or its flight awaited."""
        stream = streams_of(key)[submitted.priority == "bulk"]
        async with translated():
            if submitted.flight:
                return bool(await self._client.hexists(waiters_of(submitted.flight), submitted.id))
            return bool(await self._client.xrange(stream, submitted.entry, submitted.entry))

    async def cached_bytes(self) -> int:
        """What the kept answers take, those left out whose time is over."""
        async with translated():
            return int(await self._scripts["cache"]([], []))

    async def abandon(self, key: str, front: str) -> int:
        """Delete the unclaimed jobs of a front that is known to be dead. Returns how many there were."""
        async with translated():
            return int(await self._scripts["abandon"]([*streams_of(key), bytes_of(key)], [GROUP, front]))

    async def observe(self, keys: Sequence[str], *, gateway: str = "", capacity: int) -> list[Observed]:
        """The load of each of ``keys``, for one of the gateways that poll."""
        names = [name for key in keys for name in (*streams_of(key), arrived_of(key))]
        argv: list[Any] = [gateway, _GATEWAY_LIFETIME_MS, capacity, bulk_capacity(capacity)]
        async with translated():
            return [Observed(*load) for load in await self._scripts["observe"]([GATEWAYS, *names], argv)]

    async def depth(self, key: str) -> int:
        """Jobs that wait or execute."""
        async with translated(), self._client.pipeline(transaction=False) as pipe:
            for stream in streams_of(key):
                pipe.xlen(stream)
            return int(sum(await pipe.execute()))

    async def prepare(self, key: str) -> None:
        """Make the consumer group, if it is not there yet."""
        for stream in streams_of(key):
            try:
                async with translated():
                    await self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def forget_model(self, key: str) -> None:
        """Delete everything of a model version that is not served any more."""
        names = [*streams_of(key), bytes_of(key), arrived_of(key), quarantine_of(key), claims_of(key)]
        gone = pack(Reply("", code=NotReady.code, message=f"The model {key} was withdrawn before it came to this job."))
        async with translated():
            await self._scripts["forget"](names, [key, gone])

    async def claim(self, key: str, process: str, count: int, wait: float) -> list[Claimed]:
        """Up to ``count`` waiting jobs, at once; when there are none, wait up to ``wait`` seconds for one.

        Interactive jobs go before bulk ones, which have an eighth of every batch and fill the rest. A suspect comes
        alone. Jobs that do not unpack are dropped here: nobody could be answered.
        """
        try:
            async with translated(wait=wait):
                claimed = await self._claim_now(key, process, count)
                return claimed or (await self._await_one(key, process, count, wait) if wait > 0 else [])
        except ResponseError as error:
            if "NOGROUP" not in str(error):  # Redis 6.2 puts words of its own before a script's error
                raise
            await self.prepare(key)
            return []

    async def _claim_now(self, key: str, process: str, count: int) -> list[Claimed]:
        keys = [*streams_of(key), claims_of(key)]
        found = await self._scripts["claim"](keys, [GROUP, process, count, _BULK_TURN])
        claimed = []
        for stream, entries in found:
            flat = [(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in entries]
            claimed += await self._unpacked(key, stream.decode(), flat)
        return claimed

    async def _await_one(self, key: str, process: str, count: int, wait: float) -> list[Claimed]:
        waiting, bulk, suspects = streams_of(key)
        found: Any = await self._blocking.xreadgroup(
            GROUP, process, {suspects: ">", waiting: ">", bulk: ">"}, count=1, block=max(1, int(wait * 1000))
        )
        claimed = []
        for name, entries in found:
            claimed += await self._unpacked(key, name.decode(), entries)
        if 0 < len(claimed) < count and not any(c.suspect for c in claimed):  # its companions are just behind it
            claimed += await self._claim_now(key, process, count - len(claimed))
        return claimed

    async def _unpacked(
        self, key: str, stream: str, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]
    ) -> list[Claimed]:
        claimed = []
        for entry, fields in entries:
            data = fields[b"job"]
            try:
                claimed.append(Claimed(entry, stream, len(data), int(fields[b"claims"]) + 1, unpack_job(data)))
            except ValueError:
                log.exception("a job does not unpack, dropped", extra={"entry": entry.decode()})
                await self._scripts["finish"](
                    [stream, bytes_of(key)], [GROUP, 0, 0, entry, len(data), b"", "", 0, "", "", 0]
                )
        return claimed

    async def finish(self, key: str, replies: Sequence[tuple[Claimed, Reply]]) -> int:
        """Reply, acknowledge and delete, as one step. Returns how many were still this group's to answer."""
        answered = 0
        async with translated():
            for stream in streams_of(key):
                chosen = [(c, r) for c, r in replies if c.stream == stream]
                if chosen:
                    answered += await self._finish_in(stream, key, chosen)
        return answered

    async def _finish_in(self, stream: str, key: str, replies: Sequence[tuple[Claimed, Reply]]) -> int:
        keys = [stream, bytes_of(key)]
        numbers: dict[str, int] = {}
        argv: list[Any] = [GROUP, _REPLY_LIFETIME_MS, _REPLY_MAXLEN]
        for claimed, reply in replies:
            flight = claimed.job.flight
            for waiter in () if flight else claimed.job.waiters:
                if waiter not in numbers:
                    keys.append(replies_of(waiter))
                    numbers[waiter] = len(keys)
            waiters = [] if flight else [numbers[waiter] for waiter in claimed.job.waiters]
            kept = int(not reply.code)
            answered = (claimed.entry, claimed.size, pack(reply), flight, kept, claimed.job.record, claimed.job.id)
            argv += [*answered, len(waiters), *waiters]
        return int(await self._scripts["finish"](keys, argv))

    async def reclaim(self, key: str, process: str) -> tuple[int, list[Job]]:
        """Take back the jobs of a process that is known to be dead.

        They become suspects, which are executed alone. Returns how many did, and the jobs that died alone so
        often that they are not tried again: they are out of the queue, and the caller answers them.
        """
        await self.prepare(key)
        async with translated():
            keys = [*streams_of(key), bytes_of(key)]
            moved, culprits = await self._scripts["reclaim"](keys, [GROUP, process, _MAX_SOLO_DEATHS])
        return moved, [unpack_job(data) for data in culprits]

    async def quarantine(self, key: str, job: Job) -> None:
        """Refuse the image of this job from now on, until ``release``, or until Redis is gone."""
        entry = Quarantined(digest=job.digest, request_id=job.request_id, since=time.time())
        async with translated():
            if await self._client.hlen(quarantine_of(key)) < _MOST_QUARANTINED:
                await self._client.hset(quarantine_of(key), job.digest, pack(entry))

    async def quarantined(self, key: str) -> list[Quarantined]:
        """The images that are refused, the oldest first."""
        async with translated():
            found: Any = await self._client.hvals(quarantine_of(key))
        return sorted((unpack_quarantined(data) for data in found), key=lambda q: q.since)

    async def release(self, key: str, digest: str | None = None) -> int:
        """Take one image, or all, out of the quarantine. Returns how many there were."""
        async with translated():
            if digest is not None:
                return int(await self._client.hdel(quarantine_of(key), digest))
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hlen(quarantine_of(key))
                pipe.delete(quarantine_of(key))
                return int((await pipe.execute())[0])

    async def reply(self, job: Job, reply: Reply) -> None:
        """Answer a job that is no longer in the queue."""
        async with translated():
            argv: list[Any] = [job.flight, pack(reply), _REPLY_LIFETIME_MS, _REPLY_MAXLEN, job.record, job.id]
            await self._scripts["reply"]([replies_of(waiter) for waiter in job.waiters], argv)

    async def replies(self, front: str, after: bytes, wait: float) -> tuple[bytes, list[bytes]]:
        """The packed replies for ``front`` that came after the entry ``after``, and the last one's entry."""
        last, found = await self.addressed_replies(front, after, wait)
        return last, [data for data, _ in found]

    async def addressed_replies(
        self, front: str, after: bytes, wait: float
    ) -> tuple[bytes, list[tuple[bytes, list[str]]]]:
        """As ``replies``, each with the ids that wait for it: none but its own job's when it says none."""
        async with translated(wait=wait):
            found: Any = await self._blocking.xread(
                {replies_of(front): after}, count=256, block=max(1, int(wait * 1000))
            )
        if not found:
            return after, []
        entries = found[0][1]
        return entries[-1][0], [(f[b"reply"], f.get(b"to", b"").decode().split()) for _, f in entries]

    async def trim_replies(self, front: str, upto: bytes) -> None:
        """Delete the replies that were read."""
        async with translated():
            await self._client.xtrim(replies_of(front), minid=upto, approximate=False)

    async def forget_front(self, front: str) -> None:
        """Delete the replies for a front that has ended."""
        async with translated():
            await self._client.delete(replies_of(front))
