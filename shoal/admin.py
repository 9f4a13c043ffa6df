"""The admin listener: what an operator may ask of one process, on a unix socket that only its owner can open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from shoal import service, sockets

_FINISH_SECONDS = 1.0


@asynccontextmanager
async def listening(path: str | Path, calls: Iterable[web.AbstractRouteDef]) -> AsyncIterator[None]:
    """Serve ``calls`` on the unix socket ``path`` (empty: nowhere), which is gone afterwards.

    Raises ``OSError`` when another process serves there.
    """
    if not path:
        yield
        return
    app = web.Application()
    app.add_routes(calls)
    with sockets.bound(path) as sock:
        async with service.listening(app, [sock], drain_timeout=_FINISH_SECONDS):
            yield


def calls(state: Callable[[], Mapping[str, Any]], stop: service.Stop) -> list[web.AbstractRouteDef]:
    """What every service answers: ``GET /state`` and ``POST /drain``. A service may add its own."""

    async def show(request: web.Request) -> web.Response:
        return web.json_response({**state(), "draining": stop.is_requested})

    async def drain(request: web.Request) -> web.Response:
        """Stop as at SIGTERM. To ask again changes nothing: only a second signal stops at once."""
        stop.request()
        return web.json_response({**state(), "draining": True}, status=202)

    return [web.get("/state", show), web.post("/drain", drain)]
