"""The node's quarantine as an operator sees it: which images are refused because they killed their model process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from worker.queue import Queue, QueueUnavailable

Call = Callable[[web.Request], Awaitable[web.Response]]


def calls(queue: Queue, keys: Callable[[], Sequence[str]]) -> list[web.AbstractRouteDef]:
    """``GET /quarantine`` lists the images of the node's model versions; ``DELETE`` releases one, or all."""

    async def show(request: web.Request) -> web.Response:
        found = [
            {"model": key, **msgspec.to_builtins(quarantined)}
            for key in keys()
            for quarantined in await queue.quarantined(key)
        ]
        return web.json_response({"quarantined": found})

    async def release(request: web.Request) -> web.Response:
        digest = request.match_info.get("digest")
        released = sum([await queue.release(key, digest) for key in keys()])
        if digest and not released:
            return web.json_response({"error": f"{digest} is not in quarantine"}, status=404)
        return web.json_response({"released": released})

    return [
        web.get("/quarantine", _translated(show)),
        web.delete("/quarantine", _translated(release)),
        web.delete("/quarantine/{digest}", _translated(release)),
    ]


def _translated(call: Call) -> Call:
    async def answer(request: web.Request) -> web.Response:
        try:
            return await call(request)
        except QueueUnavailable as error:
            return web.json_response({"error": f"the node's queue does not answer: {error}"}, status=503)

    return answer
