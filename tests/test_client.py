"""The SDK against gateways that misbehave: silent, gone, full; and against callers who stop half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shoal import AsyncClient, Client, client, errors

ANSWER = {"success": True, "model": "m", "version": "1", "worker": "w", "request_id": "r", "predictions": []}
Reply = Callable[[web.Request], Any]


@asynccontextmanager
async def gateway(reply: Reply) -> AsyncIterator[str]:
    """A gateway that is also the worker: every request goes to ``reply``."""
    app = web.Application()

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = await reply(request)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def good(request: web.Request) -> object:
    if request.path == "/lookup":
        url = f"{request.url.origin()}/predict"
        return {"url": url, "ticket": "t", "incarnation": "i", "uses": int(request.query["n"]), "expires_in": 15}
    return ANSWER


def refusing(error: errors.ShoalError) -> Reply:
    async def reply(request: web.Request) -> web.Response:
        return web.json_response(error.body("r"), status=error.status, headers={"Retry-After": "1"})

    return reply


async def silent(request: web.Request) -> object:
    await asyncio.sleep(60)
    return {}


async def test_a_silent_gateway_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ASKING", aiohttp.ClientTimeout(total=0.2))
    async with gateway(silent) as first, gateway(good) as second, AsyncClient(f"{first},{second}") as shoal:
        assert (await shoal.predict(b"image", timeout=5)).worker == "w"


async def test_a_gateway_that_is_gone_is_passed_over() -> None:
    async with gateway(good) as first, AsyncClient(f"http://127.0.0.1:9,{first}") as shoal:
        assert (await shoal.predict(b"image", timeout=5)).worker == "w"


async def test_nobody_there_ends_at_the_deadline_without_a_storm() -> None:
    async with AsyncClient("http://127.0.0.1:9", timeout=0.5) as shoal:
        with pytest.raises((errors.ConnectionFailed, errors.DeadlineExceeded)):
            await shoal.predict(b"image")


async def test_full_is_waited_for_or_told_at_once() -> None:
    asked = 0

    async def full_once(request: web.Request) -> object:
        nonlocal asked
        asked += 1
        return await (refusing(errors.QueueFull())(request) if asked == 1 else good(request))

    async with gateway(full_once) as url, AsyncClient(url) as shoal:
        assert (await shoal.predict(b"image", timeout=10)).worker == "w"
    async with gateway(refusing(errors.QueueFull())) as url, AsyncClient(url) as shoal:
        with pytest.raises(errors.QueueFull):
            await shoal.predict(b"image", timeout=0.5)  # shorter than Retry-After


@pytest.mark.parametrize("error", [errors.InvalidKey, errors.UnknownModel, errors.InvalidImage, errors.BadGateway])
async def test_what_a_retry_cannot_mend_is_raised_at_once(error: type[errors.ShoalError]) -> None:
    calls = 0

    async def reply(request: web.Request) -> object:
        nonlocal calls
        calls += 1
        return await refusing(error())(request)

    async with gateway(reply) as url, AsyncClient(url, mode="proxy") as shoal:
        with pytest.raises(error) as caught:
            await shoal.predict(b"image", timeout=5)
    assert calls == 1
    assert caught.value.request_id == "r"


async def test_a_mistake_in_the_images_does_not_cancel_the_caller() -> None:
    def images() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("the caller's own mistake")

    async with gateway(good) as url, AsyncClient(url) as shoal:
        with pytest.raises(ExceptionGroup) as caught:
            _ = [outcome async for outcome in shoal.predict_many(images())]
        assert caught.group_contains(ValueError, match="own mistake")


async def test_a_caller_may_stop_half_way() -> None:
    async with gateway(good) as url, AsyncClient(url) as shoal:
        outcomes = shoal.predict_many([b"image"] * 100, concurrency=4)
        async for _ in outcomes:
            break
        await outcomes.aclose()
        assert (await shoal.predict(b"image", timeout=5)).worker == "w"


async def test_the_blocking_client_does_the_same() -> None:
    def work(url: str) -> list[int]:
        with Client(url) as shoal:
            assert shoal.predict(b"image", timeout=5).worker == "w"
            for _ in shoal.predict_many([b"image"] * 50, concurrency=4):
                break
            return sorted(outcome.number for outcome in shoal.predict_many([b"image"] * 20, concurrency=4))

    async with gateway(good) as url:
        assert await asyncio.to_thread(work, url) == list(range(20))


def test_a_client_that_was_not_entered_says_so() -> None:
    with pytest.raises(RuntimeError, match="context manager"):
        Client("http://127.0.0.1:9").status()


@pytest.mark.parametrize(("address", "mode"), [("", "direct"), (" , ", "direct"), ("http://a", "sideways")])
def test_wrong_arguments_are_told_at_once(address: str, mode: Any) -> None:
    with pytest.raises(ValueError, match=r"gateway|mode"):
        AsyncClient(address, mode=mode)
