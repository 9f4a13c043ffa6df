"""The replay buffer: what fits is kept whole and can be sent again, the rest streams through once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession, web

from gateway.replay import ReplayBuffer
from shoal.errors import BodyTooLarge, UploadTimeout
from tests.clusters import eventually_async

BODY_BYTES, TOTAL_BYTES, LIMIT = 200_000, 300_000, 500_000
ALL_FREE = f"<ReplayBuffer {TOTAL_BYTES} bytes free>"


@dataclass
class Echo:
    """A server that takes bodies through a buffer and says how: whole, as a stream, or not at all."""

    url: str
    buffer: ReplayBuffer
    held: asyncio.Event = field(default_factory=asyncio.Event)
    proceed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def serving(buffer: ReplayBuffer, limit: int, patience: float = 30.0) -> AsyncIterator[Echo]:
    async def take(request: web.Request) -> web.Response:
        try:
            async with buffer.body(request, limit=limit, deadline=time.monotonic() + patience) as body:
                if request.query.get("hold"):
                    server.held.set()
                    await server.proceed.wait()
                if isinstance(body, bytes):
                    kind, data = "whole", body
                else:
                    kind, data = "stream", b"".join([chunk async for chunk in body])
        except BodyTooLarge:
            return web.json_response({"kind": "too large"})
        except UploadTimeout:
            return web.json_response({"kind": "timeout"})
        return web.json_response({"kind": kind, "size": len(data), "digest": hashlib.sha256(data).hexdigest()})

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None, lingering_time=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = Echo(f"http://127.0.0.1:{runner.addresses[0][1]}/", buffer)
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with serving(ReplayBuffer(body_bytes=BODY_BYTES, total_bytes=TOTAL_BYTES), LIMIT) as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as opened:
        yield opened


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Makes the client send chunked: without saying how long the body is."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)


async def post(session: ClientSession, url: str, data: bytes, *, chunk: int = 0) -> dict[str, object]:
    async with session.post(url, data=pieces(data, chunk) if chunk else data) as response:
        assert response.status == 200
        answer: dict[str, object] = await response.json()
        return answer


@pytest.mark.parametrize(
    ("size", "chunk", "kind"),
    [
        (0, 0, "whole"),
        (1, 0, "whole"),
        (BODY_BYTES - 1, 0, "whole"),
        (BODY_BYTES, 0, "whole"),
        (BODY_BYTES + 1, 0, "stream"),
        (LIMIT, 0, "stream"),
        (LIMIT + 1, 0, "too large"),
        (1, 1, "whole"),
        (1000, 7, "whole"),
        (BODY_BYTES // 2, 4096, "whole"),
        (2 * BODY_BYTES, 4096, "stream"),
        (LIMIT, 65536, "stream"),
        (LIMIT + 1, 65536, "too large"),
        (4 * LIMIT, 65536, "too large"),
    ],
)
async def test_how_a_body_passes(echo: Echo, session: ClientSession, size: int, chunk: int, kind: str) -> None:
    data = bytes(i % 251 for i in range(size))
    for _ in range(2):
        answer = await post(session, echo.url, data, chunk=chunk)
        assert answer["kind"] == kind
        if kind != "too large":
            assert (answer["size"], answer["digest"]) == (size, hashlib.sha256(data).hexdigest())
        assert repr(echo.buffer) == ALL_FREE


@pytest.mark.parametrize("chunk", [10, 10_000])
async def test_the_limit_holds_for_a_body_that_would_fit(session: ClientSession, chunk: int) -> None:
    """Where an operator accepts less than the buffer would keep."""
    async with serving(ReplayBuffer(body_bytes=BODY_BYTES, total_bytes=TOTAL_BYTES), limit=1000) as small:
        assert (await post(session, small.url, bytes(1000), chunk=chunk))["kind"] == "whole"
        assert await post(session, small.url, bytes(1001), chunk=chunk) == {"kind": "too large"}
        assert await post(session, small.url, bytes(100_000), chunk=chunk) == {"kind": "too large"}
        assert repr(small.buffer) == ALL_FREE


@pytest.mark.parametrize(
    ("size", "chunk", "kind", "left"),
    [
        (TOTAL_BYTES - BODY_BYTES, 0, "whole", 0),
        (TOTAL_BYTES - BODY_BYTES + 1, 0, "stream", TOTAL_BYTES - BODY_BYTES),
        (10, 10, "stream", TOTAL_BYTES - BODY_BYTES),  # of unknown length, so it might not fit
        (10, 0, "whole", TOTAL_BYTES - BODY_BYTES - 10),
    ],
)
async def test_all_bodies_share_one_budget(
    echo: Echo, session: ClientSession, size: int, chunk: int, kind: str, left: int
) -> None:
    # Given a body that is held in the buffer
    first = asyncio.create_task(post(session, echo.url + "?hold=1", bytes(BODY_BYTES)))
    await echo.held.wait()
    assert repr(echo.buffer) == f"<ReplayBuffer {TOTAL_BYTES - BODY_BYTES} bytes free>"
    # When another comes
    echo.held.clear()
    second = asyncio.create_task(post(session, echo.url + "?hold=1", bytes(size), chunk=chunk))
    await echo.held.wait()
    # Then it gets what is left, or streams
    assert repr(echo.buffer) == f"<ReplayBuffer {left} bytes free>"
    echo.proceed.set()
    assert ((await first)["kind"], (await second)["kind"]) == ("whole", kind)
    assert repr(echo.buffer) == ALL_FREE


HALF_BODIES = {
    "of a known length": b"Content-Length: 1000\r\n\r\nhalf of it",
    "of an unknown length": b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
}


async def taken(echo: Echo, *, share: bool = True) -> bool:
    return (repr(echo.buffer) != ALL_FREE) is share


async def send_half(echo: Echo, half: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(echo.url.rsplit(":", 1)[1].strip("/"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: test\r\n" + HALF_BODIES[half])
    await eventually_async(lambda: taken(echo), within=5, what="a share of the buffer taken")
    return reader, writer


@pytest.mark.parametrize("half", HALF_BODIES)
async def test_a_client_that_leaves_gives_its_share_back(echo: Echo, half: str) -> None:
    _, writer = await send_half(echo, half)
    writer.transport.abort()
    await eventually_async(lambda: taken(echo, share=False), within=5, what="its share given back")


@pytest.mark.parametrize("half", HALF_BODIES)
async def test_a_body_that_does_not_come_in_time_is_given_up(half: str) -> None:
    buffer = ReplayBuffer(body_bytes=BODY_BYTES, total_bytes=TOTAL_BYTES)
    async with serving(buffer, LIMIT, patience=0.3) as hurried:
        reader, writer = await send_half(hurried, half)
        assert b"timeout" in await asyncio.wait_for(reader.readuntil(b"}"), 5)
        assert repr(buffer) == ALL_FREE
        writer.transport.abort()
