"""How the node's Redis is reached: its two connections, its errors in our words, and the scripts that it executes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_MAX_CONNECTIONS = 64  # calls beyond them wait for one
_TIMEOUT = 10.0

_PARTS: dict[str, tuple[str, ...]] = {  # what each script begins with
    **dict.fromkeys(("claim", "cancel", "observe"), ()),
    **dict.fromkeys(("submit", "leave", "abandon", "reclaim", "cache"), ("sharing",)),
    **dict.fromkeys(("finish", "reply", "forget"), ("sharing", "records")),
    **dict.fromkeys(("job_find", "job_cancel", "job_tick", "job_attempted"), ("records",)),
    "job_accept": ("sharing", "records", "submit()"),
}


class QueueUnavailable(Exception):
    """Redis does not answer, or has no memory left. Fronts keep their jobs and submit them again when it is back."""


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[tuple[aioredis.Redis, aioredis.Redis]]:
    """A client of the Redis that listens at the socket ``path``, and another one for blocking reads.

    Both connect on first use. The timeout of a call is that of ``translated``: with one of its own, the client waits by
    ``asyncio.wait_for``, which before Python 3.12 can swallow a cancellation.
    """
    once = Retry(NoBackoff(), 0)  # a lost Redis loses its jobs, so who called must know
    pool = aioredis.BlockingConnectionPool(
        connection_class=aioredis.UnixDomainSocketConnection,
        path=path,
        retry=once,
        socket_timeout=None,
        socket_connect_timeout=_TIMEOUT,
        protocol=2,
        max_connections=_MAX_CONNECTIONS,
        timeout=None,
    )
    client = aioredis.Redis.from_pool(pool)
    blocking = aioredis.Redis(
        unix_socket_path=path, retry=once, socket_timeout=None, socket_connect_timeout=_TIMEOUT, protocol=2
    )
    try:
        yield client, blocking
    finally:
        await client.aclose()
        await blocking.aclose()


def scripts(client: aioredis.Redis) -> dict[str, AsyncScript]:
    """Every script of ``queue_scripts/``, by name."""
    folder = Path(__file__).parent / "queue_scripts"

    def read(name: str) -> str:
        if name.endswith("()"):  # a script as a function of another one
            return f"local function {name[:-2]}(KEYS, ARGV)\n{read(name[:-2])}end\n"
        return (folder / f"{name}.lua").read_text(encoding="utf-8")

    texts = {name: "".join(map(read, (*parts, name))) for name, parts in _PARTS.items()}
    return {name: client.register_script(text) for name, text in texts.items()}


@asynccontextmanager
async def translated(*, full: bool = True, wait: float = 0.0) -> AsyncIterator[None]:
    """Raises ``QueueUnavailable`` for what Redis or its connection cannot help, and when it takes 10 s longer than
    ``wait`` seconds; unless ``full``, not for its memory."""
    try:
        async with asyncio.timeout(_TIMEOUT + wait):
            yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise QueueUnavailable(str(error)) from error
    except ResponseError as error:
        if full and is_out_of_memory(error):
            raise QueueUnavailable(str(error)) from error
        raise


def is_out_of_memory(error: ResponseError) -> bool:
    return isinstance(error, OutOfMemoryError) or "OOM" in str(error)  # the latter is Redis 6.2, in a script
