"""The node's job queue on its co-located Redis, and the only file that knows Redis.

One queue for each model version, KEY = ``model@version``. Nothing is kept on disk::

    shoal:{KEY}:waiting     stream  job (packed Job), claims (deaths so far), front
                                    fronts add; group "models" reads; an entry is deleted in the step that answers
                                    it, so its length is the depth
    shoal:{KEY}:bulk        stream  the same, of bulk jobs                     they fill what interactive ones leave
    shoal:{KEY}:suspects    stream  the same, of jobs whose process died       the supervisor moves them; executed alone
    shoal:{KEY}:bytes       number  bytes of the jobs in all three             with every add and delete
    shoal:{KEY}:claims      number  claims while bulk jobs waited              gives bulk its turn
    shoal:{KEY}:arrived     hash    gateway -> uses of its tickets that came   fronts add; goes with the gateway
    shoal:{KEY}:quarantine  hash    digest of an image -> packed Quarantined   the supervisor adds, an operator clears
    shoal:gateways          sorted  gateway -> last poll (milliseconds)        fronts add; seconds after the last poll
    shoal:replies:{FRONT}   stream  reply (packed Reply)                       model processes add; the front reads and
                                    trims; expires a minute after the last reply
    shoal:ticket:{ID}       number  uses of a ticket                           fronts add; expires with the ticket

Every change of several keys is one script (``queue_scripts/``), so a process killed between two steps leaves no
half-done job. Written to the commands of Redis 6.2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shoal.wire import Job, Quarantined, Reply, pack, unpack_job, unpack_quarantined
from worker.jobs import Claimed, Observed, Refused, Submitted

log = logging.getLogger(__name__)

_GROUP = "models"
_REPLY_LIFETIME_MS = 60_000
_TICKET_LIFETIME_MS = 600_000  # longer than any ticket lives
_REPLY_MAXLEN = 100_000  # a front trims long before; this bounds the stream of one that hangs
_MAX_SOLO_DEATHS = 2
_MAX_CONNECTIONS = 64  # calls beyond them wait for one
_BULK_TURN = 8  # one in so many places, or claims of one, is for bulk jobs, so that they never starve
_BULK_SHARE = 0.75  # of the capacity: bulk jobs leave room for interactive ones
_GATEWAY_LIFETIME_MS = 3_000  # a gateway that has not polled for so long shares no slots
_MOST_QUARANTINED = 10_000

_SCRIPTS = ("submit", "claim", "finish", "cancel", "abandon", "reclaim", "observe")


class QueueUnavailable(Exception):
    """Redis does not answer, or has no memory left. Fronts keep their jobs and submit them again when it is back."""


class Queue:
    """The queues and reply streams of one node. Construct with ``Queue.connect``."""

    def __init__(self, client: aioredis.Redis, blocking: aioredis.Redis) -> None:
        self._client = client
        self._blocking = blocking
        folder = Path(__file__).parent / "queue_scripts"
        self._scripts = {
            name: client.register_script((folder / f"{name}.lua").read_text(encoding="utf-8")) for name in _SCRIPTS
        }

    @classmethod
    @asynccontextmanager
    async def connect(cls, path: str) -> AsyncIterator[Queue]:
        """The node's queue, over the Redis that listens at the socket ``path``. Connects on first use."""
        once = Retry(NoBackoff(), 0)  # a lost Redis loses its jobs, so who called must know
        pool = aioredis.BlockingConnectionPool(
            connection_class=aioredis.UnixDomainSocketConnection,
            path=path,
            retry=once,
            socket_timeout=10,
            protocol=2,
            max_connections=_MAX_CONNECTIONS,
            timeout=None,
        )
        client = aioredis.Redis.from_pool(pool)
        # Blocking reads outlast any socket timeout.
        blocking = aioredis.Redis(unix_socket_path=path, retry=once, socket_timeout=None, protocol=2)
        try:
            yield cls(client, blocking)
        finally:
            await client.aclose()
            await blocking.aclose()

    async def run_id(self) -> str:
        """The identity of the running Redis: another one has forgotten every job."""
        with _translated():
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
        packed = pack(job)
        keys = [*_streams(key), _bytes(key), _quarantine(key), _arrived(key), f"shoal:ticket:{ticket}"]
        room = capacity if job.priority == "interactive" else bulk_capacity(capacity)
        front = job.waiters[0] if job.waiters else ""
        argv: list[Any] = [
            job.priority,
            room,
            capacity_bytes,
            packed,
            front,
            job.digest,
            gateway,
            uses,
            _TICKET_LIFETIME_MS,
        ]
        with _translated():
            try:
                entry, depth = await self._scripts["submit"](keys, argv)
            except ResponseError as error:
                if not _is_out_of_memory(error):
                    raise
                return Refused("full", await self.depth(key))
        if entry in (b"full", b"spent", b"quarantined"):
            return Refused(entry.decode(), depth)
        return Submitted(entry, depth, len(packed), job.priority)

    async def arrive(self, key: str, gateway: str, *, ticket: str = "") -> None:
        """Count a request that never became a job as arrived, and spend one use of ``ticket``, if any, on it."""
        if not gateway and not ticket:
            return
        with _translated():
            async with self._client.pipeline(transaction=True) as pipe:
                if gateway:
                    pipe.hincrby(_arrived(key), gateway, 1)
                if ticket:
                    pipe.incr(f"shoal:ticket:{ticket}")
                    pipe.pexpire(f"shoal:ticket:{ticket}", _TICKET_LIFETIME_MS)
                await pipe.execute()

    async def cancel(self, key: str, submitted: Submitted) -> bool:
        """Take a job back that no process has claimed yet. False when it is too late."""
        stream = _streams(key)[submitted.priority == "bulk"]
        with _translated():
            return bool(await self._scripts["cancel"]([stream, _bytes(key)], [_GROUP, submitted.entry, submitted.size]))

    async def holds(self, key: str, submitted: Submitted) -> bool:
        """Whether the job is still in the queue."""
        stream = _streams(key)[submitted.priority == "bulk"]
        with _translated():
            return bool(await self._client.xrange(stream, submitted.entry, submitted.entry))

    async def abandon(self, key: str, front: str) -> int:
        """Delete the unclaimed jobs of a front that is known to be dead. Returns how many there were."""
        with _translated():
            return int(await self._scripts["abandon"]([*_streams(key), _bytes(key)], [_GROUP, front]))

    async def observe(self, keys: Sequence[str], *, gateway: str = "", capacity: int) -> list[Observed]:
        """The load of each of ``keys``, for one of the gateways that poll."""
        names = [name for key in keys for name in (*_streams(key), _arrived(key))]
        argv: list[Any] = [gateway, _GATEWAY_LIFETIME_MS, capacity, bulk_capacity(capacity)]
        with _translated():
            return [Observed(*load) for load in await self._scripts["observe"](["shoal:gateways", *names], argv)]

    async def depth(self, key: str) -> int:
        """Jobs that wait or execute."""
        with _translated():
            async with self._client.pipeline(transaction=False) as pipe:
                for stream in _streams(key):
                    pipe.xlen(stream)
                return int(sum(await pipe.execute()))

    async def prepare(self, key: str) -> None:
        """Make the consumer group, if it is not there yet."""
        for stream in _streams(key):
            try:
                with _translated():
                    await self._client.xgroup_create(stream, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def forget_model(self, key: str) -> None:
        """Delete everything of a model version that is not served any more."""
        with _translated():
            await self._client.delete(
                *_streams(key), _bytes(key), _arrived(key), _quarantine(key), f"shoal:{key}:claims"
            )

    async def claim(self, key: str, process: str, count: int, wait: float) -> list[Claimed]:
        """Up to ``count`` waiting jobs, at once; when there are none, wait up to ``wait`` seconds for one.

        Interactive jobs go before bulk ones, which have an eighth of every batch and fill the rest. A suspect comes
        alone. Jobs that do not unpack are dropped here: nobody could be answered.
        """
        try:
            with _translated():
                claimed = await self._claim_now(key, process, count)
                return claimed or (await self._await_one(key, process, count, wait) if wait > 0 else [])
        except ResponseError as error:
            if "NOGROUP" not in str(error):  # Redis 6.2 puts words of its own before a script's error
                raise
            await self.prepare(key)
            return []

    async def _claim_now(self, key: str, process: str, count: int) -> list[Claimed]:
        keys = [*_streams(key), f"shoal:{key}:claims"]
        found = await self._scripts["claim"](keys, [_GROUP, process, count, _BULK_TURN])
        claimed = []
        for stream, entries in found:
            flat = [(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in entries]
            claimed += await self._unpacked(key, stream.decode(), flat)
        return claimed

    async def _await_one(self, key: str, process: str, count: int, wait: float) -> list[Claimed]:
        waiting, bulk, suspects = _streams(key)
        found: Any = await self._blocking.xreadgroup(
            _GROUP, process, {suspects: ">", waiting: ">", bulk: ">"}, count=1, block=max(1, int(wait * 1000))
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
                await self._scripts["finish"]([stream, _bytes(key)], [_GROUP, 0, 0, entry, len(data), b"", 0])
        return claimed

    async def finish(self, key: str, replies: Sequence[tuple[Claimed, Reply]]) -> int:
        """Reply, acknowledge and delete, as one step. Returns how many were still this group's to answer."""
        answered = 0
        with _translated():
            for stream in _streams(key):
                chosen = [(c, r) for c, r in replies if c.stream == stream]
                if chosen:
                    answered += await self._finish_in(stream, key, chosen)
        return answered

    async def _finish_in(self, stream: str, key: str, replies: Sequence[tuple[Claimed, Reply]]) -> int:
        keys = [stream, _bytes(key)]
        numbers: dict[str, int] = {}
        argv: list[Any] = [_GROUP, _REPLY_LIFETIME_MS, _REPLY_MAXLEN]
        for claimed, reply in replies:
            for waiter in claimed.job.waiters:
                if waiter not in numbers:
                    keys.append(_replies(waiter))
                    numbers[waiter] = len(keys)
            waiters = [numbers[waiter] for waiter in claimed.job.waiters]
            argv += [claimed.entry, claimed.size, pack(reply), len(waiters), *waiters]
        return int(await self._scripts["finish"](keys, argv))

    async def reclaim(self, key: str, process: str) -> tuple[int, list[Job]]:
        """Take back the jobs of a process that is known to be dead.

        They become suspects, which are executed alone. Returns how many did, and the jobs that died alone so
        often that they are not tried again: they are out of the queue, and the caller answers them.
        """
        await self.prepare(key)
        with _translated():
            keys = [*_streams(key), _bytes(key)]
            moved, culprits = await self._scripts["reclaim"](keys, [_GROUP, process, _MAX_SOLO_DEATHS])
        return moved, [unpack_job(data) for data in culprits]

    async def quarantine(self, key: str, job: Job) -> None:
        """Refuse the image of this job from now on, until ``release``, or until Redis is gone."""
        entry = Quarantined(digest=job.digest, request_id=job.request_id, since=time.time())
        with _translated():
            if await self._client.hlen(_quarantine(key)) < _MOST_QUARANTINED:
                await self._client.hset(_quarantine(key), job.digest, pack(entry))

    async def quarantined(self, key: str) -> list[Quarantined]:
        """The images that are refused, the oldest first."""
        with _translated():
            found: Any = await self._client.hvals(_quarantine(key))
        return sorted((unpack_quarantined(data) for data in found), key=lambda q: q.since)

    async def release(self, key: str, digest: str | None = None) -> int:
        """Take one image, or all, out of the quarantine. Returns how many there were."""
        with _translated():
            if digest is not None:
                return int(await self._client.hdel(_quarantine(key), digest))
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hlen(_quarantine(key))
                pipe.delete(_quarantine(key))
                return int((await pipe.execute())[0])

    async def reply(self, job: Job, reply: Reply) -> None:
        """Answer a job that is no longer in the queue."""
        with _translated():
            async with self._client.pipeline(transaction=True) as pipe:
                for waiter in job.waiters:
                    pipe.xadd(_replies(waiter), {"reply": pack(reply)})
                    pipe.pexpire(_replies(waiter), _REPLY_LIFETIME_MS)
                await pipe.execute()

    async def replies(self, front: str, after: bytes, wait: float) -> tuple[bytes, list[bytes]]:
        """The packed replies for ``front`` that came after the entry ``after``, and the last one's entry."""
        with _translated():
            found: Any = await self._blocking.xread({_replies(front): after}, count=256, block=max(1, int(wait * 1000)))
        if not found:
            return after, []
        entries = found[0][1]
        return entries[-1][0], [fields[b"reply"] for _, fields in entries]

    async def trim_replies(self, front: str, upto: bytes) -> None:
        """Delete the replies that were read."""
        with _translated():
            await self._client.xtrim(_replies(front), minid=upto, approximate=False)

    async def forget_front(self, front: str) -> None:
        """Delete the replies for a front that has ended."""
        with _translated():
            await self._client.delete(_replies(front))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise QueueUnavailable(str(error)) from error
    except ResponseError as error:
        if _is_out_of_memory(error):
            raise QueueUnavailable(str(error)) from error
        raise


def _is_out_of_memory(error: ResponseError) -> bool:
    return isinstance(error, OutOfMemoryError) or "OOM" in str(error)  # the latter is Redis 6.2, in a script


def bulk_capacity(capacity: int) -> int:
    """The most jobs that may be there when a bulk job is accepted."""
    return max(1, int(capacity * _BULK_SHARE))


def _streams(key: str) -> tuple[str, str, str]:
    return f"shoal:{key}:waiting", f"shoal:{key}:bulk", f"shoal:{key}:suspects"


def _bytes(key: str) -> str:
    return f"shoal:{key}:bytes"


def _arrived(key: str) -> str:
    return f"shoal:{key}:arrived"


def _quarantine(key: str) -> str:
    return f"shoal:{key}:quarantine"


def _replies(front: str) -> str:
    return f"shoal:replies:{front}"
