"""Somebody's webhook endpoint for tests: it writes down what comes, and answers what it is told to."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass
class Receiver:
    """``answers`` are the statuses of the first webhooks; the others get 204. Those that are ``held`` get none."""

    answers: list[int] = field(default_factory=list)
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event | None = None
    url: str = ""
    host: str = ""

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.came.append((dict(request.headers), body))
        self.arrived.set()
        if self.held is not None:
            await self.held.wait()
        status = self.answers.pop(0) if self.answers else 204
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)

    def documents(self, secret: str = SECRET) -> list[Any]:
        """What came, each verified as a user does it: by the library of Standard Webhooks."""
        return [Webhook(secret).verify(body, headers) for headers, body in self.came]

    @property
    def names(self) -> list[str]:
        """The ``webhook-id`` of each."""
        return [headers["webhook-id"] for headers, _ in self.came]


@asynccontextmanager
async def receiver(answers: Sequence[int] = ()) -> AsyncIterator[Receiver]:
    endpoint = Receiver(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.receive)
    server = TestServer(app)
    await server.start_server()
    try:
        endpoint.url = str(server.make_url("/hook"))
        endpoint.host = f"{server.host}:{server.port}"
        yield endpoint
    finally:
        if endpoint.held is not None:
            endpoint.held.set()
        await server.close()
