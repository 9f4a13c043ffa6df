"""The node's job queue on its co-located Redis, and the only file that knows Redis.

One queue for each model version, KEY = ``model@version``. Nothing is kept on disk::

    shoal:{KEY}:waiting     stream  job (packed Job), claims (deaths so far)   fronts add; group "models" reads;
                                    an entry is deleted in the step that answers it, so its length is the depth
    shoal:{KEY}:suspects    stream  the same, of jobs whose process died       the supervisor moves them; executed alone
    shoal:{KEY}:bytes       number  bytes of the jobs in both                  with every add and delete
    shoal:replies:{FRONT}   stream  reply (packed Reply)                       model processes add; the front reads and
                                    trims; expires a minute after the last reply
    shoal:ticket:{ID}       number  uses of a ticket                           fronts add; expires with the ticket

Every change of several keys is one script, so a process killed between two steps leaves no half-done job.
Written to the commands of Redis 6.2.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shoal.wire import Job, Reply, pack, unpack_job

log = logging.getLogger(__name__)

_GROUP = "models"
_REPLY_LIFETIME_MS = 60_000
_TICKET_LIFETIME_MS = 600_000  # longer than any ticket lives
_REPLY_MAXLEN = 100_000  # a front trims long before; this bounds the stream of one that hangs
_MAX_SOLO_DEATHS = 2
_MAX_CONNECTIONS = 64  # calls beyond them wait for one

_SUBMIT = """
local depth = redis.call('XLEN', KEYS[1]) + redis.call('XLEN', KEYS[2])
local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
if depth >= tonumber(ARGV[1]) or (depth > 0 and bytes + #ARGV[3] > tonumber(ARGV[2])) then return {'full', depth} end
local uses = tonumber(ARGV[4])
if uses > 0 then
  local used = redis.call('INCR', KEYS[4])
  if used == 1 then redis.call('PEXPIRE', KEYS[4], ARGV[5]) end
  if used > uses then return {'spent', depth} end
end
local entry = redis.call('XADD', KEYS[1], '*', 'job', ARGV[3], 'claims', '0')
redis.call('INCRBY', KEYS[3], #ARGV[3])
return {entry, depth + 1}
"""

_CLAIM = """
local got = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[2], '>')
if got then return {1, got[1][2]} end
got = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
if got then return {0, got[1][2]} end
return {0, {}}
"""

# ARGV: group, reply lifetime, reply cap, then for each job: entry, bytes, reply, number of waiters, their key numbers.
_FINISH = """
local i, answered = 4, 0
while i <= #ARGV do
  local entry, size, reply, waiters = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  if redis.call('XACK', KEYS[1], ARGV[1], entry) == 1 then
    if redis.call('XDEL', KEYS[1], entry) == 1 then redis.call('DECRBY', KEYS[2], size) end
    for w = 1, waiters do
      local key = KEYS[tonumber(ARGV[i + 3 + w])]
      redis.call('XADD', key, 'MAXLEN', '~', ARGV[3], '*', 'reply', reply)
      redis.call('PEXPIRE', key, ARGV[2])
    end
    answered = answered + 1
  end
  i = i + 4 + waiters
end
return answered
"""

_CANCEL = """
local claims = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)  -- an error: no group yet, so no claim
if not claims.err and #claims > 0 then return 0 end
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('DECRBY', KEYS[2], ARGV[3])
return 1
"""

# A job that its dead process had claimed becomes a suspect; one that died alone too often is handed back.
_RECLAIM = """
local moved, culprits = 0, {}
for stream = 1, 2 do
  for _, pending in ipairs(redis.call('XPENDING', KEYS[stream], ARGV[1], '-', '+', 1000000, ARGV[2])) do
    local found = redis.call('XRANGE', KEYS[stream], pending[1], pending[1])
    redis.call('XACK', KEYS[stream], ARGV[1], pending[1])
    redis.call('XDEL', KEYS[stream], pending[1])
    if found[1] then
      local job, claims = found[1][2][2], tonumber(found[1][2][4]) + 1
      if stream == 2 and claims > tonumber(ARGV[3]) then
        redis.call('DECRBY', KEYS[3], #job)
        table.insert(culprits, job)
      else
        redis.call('XADD', KEYS[2], '*', 'job', job, 'claims', claims)
        moved = moved + 1
      end
    end
  end
  redis.call('XGROUP', 'DELCONSUMER', KEYS[stream], ARGV[1], ARGV[2])
end
return {moved, culprits}
"""


class QueueUnavailable(Exception):
    """Redis does not answer, or has no memory left. Fronts keep their jobs and submit them again when it is back."""


@dataclass(frozen=True)
class Claimed:
    """A job in the hands of a model process. ``attempt`` counts its claims, from 1."""

    entry: bytes
    suspect: bool
    size: int
    attempt: int
    job: Job


@dataclass(frozen=True)
class Submitted:
    """A job in the queue, which has ``depth`` jobs now. ``entry`` serves to cancel it."""

    entry: bytes
    depth: int
    size: int


@dataclass(frozen=True)
class Refused:
    """A job that was not accepted: ``full`` (the queue, with ``depth`` jobs) or ``spent`` (its ticket)."""

    reason: str
    depth: int


class Queue:
    """The queues and reply streams of one node. Construct with ``Queue.connect``."""

    def __init__(self, client: aioredis.Redis, blocking: aioredis.Redis) -> None:
        self._client = client
        self._blocking = blocking
        self._submit = client.register_script(_SUBMIT)
        self._claim = client.register_script(_CLAIM)
        self._finish = client.register_script(_FINISH)
        self._cancel = client.register_script(_CANCEL)
        self._reclaim = client.register_script(_RECLAIM)

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
        self, key: str, job: bytes, *, capacity: int, capacity_bytes: int, ticket: str = "", uses: int = 0
    ) -> Submitted | Refused:
        """Add a packed job, spending one use of its ticket, or refuse it: all of it or nothing."""
        keys = [*_streams(key), _bytes(key), f"shoal:ticket:{ticket}"]
        with _translated():
            try:
                entry, depth = await self._submit(keys, [capacity, capacity_bytes, job, uses, _TICKET_LIFETIME_MS])
            except ResponseError as error:
                if not _is_out_of_memory(error):
                    raise
                return Refused("full", await self.depth(key))
        if entry in (b"full", b"spent"):
            return Refused(entry.decode(), depth)
        return Submitted(entry, depth, len(job))

    async def spend(self, ticket: str) -> None:
        """Spend one use of a ticket on a request that failed for good before it was a job."""
        with _translated():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.incr(f"shoal:ticket:{ticket}")
                pipe.pexpire(f"shoal:ticket:{ticket}", _TICKET_LIFETIME_MS)
                await pipe.execute()

    async def cancel(self, key: str, submitted: Submitted) -> bool:
        """Take a job back that no process has claimed yet. False when it is too late."""
        with _translated():
            keys = [_streams(key)[0], _bytes(key)]
            return bool(await self._cancel(keys, [_GROUP, submitted.entry, submitted.size]))

    async def depth(self, key: str) -> int:
        """Jobs that wait or execute."""
        waiting, suspects = _streams(key)
        with _translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.xlen(waiting)
                pipe.xlen(suspects)
                lengths = await pipe.execute()
        return int(sum(lengths))

    async def prepare(self, key: str) -> None:
        """Make the consumer group, if it is not there yet."""
        for stream in _streams(key):
            try:
                with _translated():
                    await self._client.xgroup_create(stream, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def claim(self, key: str, process: str, count: int, wait: float) -> list[Claimed]:
        """Up to ``count`` waiting jobs, at once; when there are none, wait up to ``wait`` seconds for one.

        A suspect comes alone. Jobs that do not unpack are dropped here: nobody could be answered.
        """
        streams = _streams(key)
        try:
            with _translated():
                solo, entries = await self._claim(streams, [_GROUP, process, count])
                if not entries and wait > 0:
                    return await self._await_one(key, process, count, wait)
        except ResponseError as error:
            if "NOGROUP" not in str(error):  # Redis 6.2 puts words of its own before a script's error
                raise
            await self.prepare(key)
            return []
        return await self._unpacked(key, streams[solo], [(e, f) for e, f in entries])

    async def _await_one(self, key: str, process: str, count: int, wait: float) -> list[Claimed]:
        waiting, suspects = _streams(key)
        found: Any = await self._blocking.xreadgroup(
            _GROUP, process, {suspects: ">", waiting: ">"}, count=1, block=max(1, int(wait * 1000))
        )
        if count > 1 and len(found) == 1 and found[0][0].decode() == waiting:  # its companions are just behind it
            found += await self._client.xreadgroup(_GROUP, process, {waiting: ">"}, count=count - 1)
        claimed = []
        for name, entries in found:
            flat = [(entry, (b"job", fields[b"job"], b"claims", fields[b"claims"])) for entry, fields in entries]
            claimed += await self._unpacked(key, name.decode(), flat)
        return claimed

    async def _unpacked(self, key: str, stream: str, entries: Sequence[Any]) -> list[Claimed]:
        claimed = []
        for entry, (_, data, _, claims) in entries:
            try:
                suspect = stream == _streams(key)[1]
                claimed.append(Claimed(entry, suspect, len(data), int(claims) + 1, unpack_job(data)))
            except ValueError:
                log.exception("a job does not unpack, dropped", extra={"entry": entry.decode()})
                await self._finish([stream, _bytes(key)], [_GROUP, 0, 0, entry, len(data), b"", 0])
        return claimed

    async def finish(self, key: str, replies: Sequence[tuple[Claimed, Reply]]) -> int:
        """Reply, acknowledge and delete, as one step. Returns how many were still this group's to answer."""
        answered = 0
        with _translated():
            for suspect in (False, True):
                chosen = [(c, r) for c, r in replies if c.suspect is suspect]
                if chosen:
                    answered += await self._finish_in(_streams(key)[suspect], key, chosen)
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
        return int(await self._finish(keys, argv))

    async def reclaim(self, key: str, process: str) -> tuple[int, list[Job]]:
        """Take back the jobs of a process that is known to be dead.

        They become suspects, which are executed alone. Returns how many did, and the jobs that died alone so
        often that they are not tried again: they are out of the queue, and the caller answers them.
        """
        await self.prepare(key)
        with _translated():
            moved, culprits = await self._reclaim([*_streams(key), _bytes(key)], [_GROUP, process, _MAX_SOLO_DEATHS])
        return moved, [unpack_job(data) for data in culprits]

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


def _streams(key: str) -> tuple[str, str]:
    return f"shoal:{key}:waiting", f"shoal:{key}:suspects"


def _bytes(key: str) -> str:
    return f"shoal:{key}:bytes"


def _replies(front: str) -> str:
    return f"shoal:replies:{front}"
