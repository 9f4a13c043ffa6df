"""The admin listener: what an operator may ask of one process.

It is a unix socket that only its owner can open, or ``https://HOST:PORT`` for certificates that name ``admin.shoal``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from shoal import callers, service, sockets
from shoal.errors import ShoalError
from shoal.http import Handler
from shoal.tls import Certificate

_FINISH_SECONDS = 1.0


@asynccontextmanager
async def listening(
    place: str | Path, calls: Iterable[web.AbstractRouteDef], certificate: Certificate | None = None
) -> AsyncIterator[None]:
    """Serve ``calls`` at ``place``: a unix socket, which is gone afterwards, or ``https://HOST:PORT``; empty: nowhere.

    Raises ``OSError`` when another process serves there.
    """
    if not place:
        yield
        return
    app = web.Application()
    app.add_routes(calls)
    if not str(place).startswith("https://"):
        with sockets.bound(place) as sock:
            async with service.listening(app, [sock], drain_timeout=_FINISH_SECONDS):
                yield
        return
    assert certificate is not None  # the settings see to it
    app.middlewares.extend((_refusals, callers.only(callers.ADMIN)))
    parts = urlsplit(str(place))
    with service.bind(parts.hostname or "", parts.port or 0) as sock:
        async with service.listening(app, [sock], drain_timeout=_FINISH_SECONDS, certificate=certificate):
            yield


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ShoalError as error:
        return web.json_response({"error": error.message}, status=error.status)


def calls(state: Callable[[], Mapping[str, Any]], stop: service.Stop) -> list[web.AbstractRouteDef]:
    """What every service answers: ``GET /state`` and ``POST /drain``. A service may add its own."""

    async def show(request: web.Request) -> web.Response:
        return web.json_response({**state(), "draining": stop.is_requested})

    async def drain(request: web.Request) -> web.Response:
        """Stop as at SIGTERM. To ask again changes nothing: only a second signal stops at once."""
        stop.request()
        return web.json_response({**state(), "draining": True}, status=202)

    return [web.get("/state", show), web.post("/drain", drain)]
