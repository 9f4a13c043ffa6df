"""The life of a service: know before you listen, leave before you stop; gateways and fronts live the same one.

A resource is an async context manager and the order is nesting, so a process reads as its life::

    async with resources() as app:                            # freed last
        async with listening(app, sockets, drain_timeout=30):   # then: refuse new, finish what runs
            async with membership(member):                    # first: leave discovery
                await stop.requested()
            await stop.grace(20)                              # keep serving those who have not heard yet
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvloop
from aiohttp import web

from shoal.tls import Certificate

log = logging.getLogger(__name__)


class Stop:
    """The wish to stop. A signal or ``request`` asks for a drain, a second signal ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._signals = 0

    def __repr__(self) -> str:
        return f"<Stop {'requested' if self._event.is_set() else 'not requested'}>"

    @property
    def is_requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        self._event.set()

    def listen(self) -> None:
        """Take SIGTERM and SIGINT of this process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal: stopping at once")
            os._exit(128 + number)
        log.info("draining", extra={"signal": signal.Signals(number).name})
        self.request()

    async def requested(self) -> None:
        await self._event.wait()

    async def grace(self, seconds: float) -> None:
        """Keep serving for those who still have the address."""
        await asyncio.sleep(seconds)


async def hold_lifeline(lines: AsyncIterator[bytes]) -> None:
    """Wait until standard input closes, which means that the parent is gone, then stop at once."""
    async for _ in lines:
        pass
    os._exit(1)


async def lines_of_stdin() -> AsyncIterator[bytes]:
    """The lines that the parent writes to our standard input, until it is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line


@asynccontextmanager
async def listening(
    app: web.Application,
    sockets: Sequence[socket.socket],
    *,
    drain_timeout: float,
    certificate: Certificate | None = None,
) -> AsyncIterator[None]:
    """Serve ``app`` on bound sockets, over TLS with a certificate; on leaving, accept no more and finish what runs."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=drain_timeout,
        keepalive_timeout=75,
        auto_decompress=False,
    )
    await runner.setup()
    context = certificate.serving if certificate else None
    try:
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=1024, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to ``host`` (IPv4, IPv6 or a name) and ``port`` (0: a free one).

    It does not listen yet: until someone serves on it, connections are refused.
    """
    family, kind, proto, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def url_of(host: str, sock: socket.socket, *, encrypted: bool = False) -> str:
    """The URL of a bound socket; a wildcard address is named by this machine's host name."""
    port = sock.getsockname()[1]
    host = host.strip("[]")
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        host = socket.getfqdn()
    scheme = "https" if encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless coroutines beside the body; one that fails fails the body, and all end with it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(c) for c in coroutines]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's main coroutine on uvloop and return its exit code."""
    with suppress(KeyboardInterrupt):
        return uvloop.run(main)
    return 130
