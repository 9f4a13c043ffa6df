"""The SDK against gateways that misbehave: silent, gone, full; and against callers who stop half-way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shoal import AsyncClient, Client, cli, client, errors
from shoal.client import Mode
from shoal.gateways import Gateways

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


async def good(request: web.Request) -> dict[str, Any]:
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


@dataclass
class Seen:
    """A gateway with a memory: every request that came, and then ``reply``'s answer."""

    reply: Reply
    requests: list[web.Request] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> object:
        self.requests.append(request)
        return await self.reply(request)

    def count(self, path: str) -> int:
        return sum(request.path == path for request in self.requests)


async def broken(request: web.Request) -> object:
    """Ends the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return {}


ASKED: dict[Mode, str] = {"direct": "/lookup", "proxy": "/predict"}


@pytest.mark.parametrize("mode", ASKED)
async def test_gateways_are_asked_in_turn(mode: Mode) -> None:
    first, second, third = Seen(good), Seen(good), Seen(good)
    async with (
        gateway(first) as a,
        gateway(second) as b,
        gateway(third) as c,
        AsyncClient(f"{a}, {b}/,{c}", mode=mode) as shoal,
    ):
        for _ in range(6):
            await shoal.predict(b"image", timeout=5)
    assert [seen.count(ASKED[mode]) for seen in (first, second, third)] == [2, 2, 2]


@pytest.mark.parametrize("mode", ASKED)
async def test_a_gateway_that_failed_is_avoided(mode: Mode) -> None:
    bad, fine = Seen(broken), Seen(good)
    async with gateway(bad) as first, gateway(fine) as second, AsyncClient(f"{first},{second}", mode=mode) as shoal:
        await shoal.predict(b"image", timeout=5)
        once = bad.count(ASKED[mode])  # or twice: aiohttp repeats a GET whose connection broke
        for _ in range(7):
            await shoal.predict(b"image", timeout=5)
    assert once > 0
    assert (bad.count(ASKED[mode]), fine.count(ASKED[mode])) == (once, 8)


def test_who_failed_is_asked_last_and_when_all_did_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    gateways = Gateways("http://a,http://b,http://c")
    assert [gateways.in_turn()[0][-1] for _ in range(4)] == ["a", "b", "c", "a"]
    gateways.avoid("http://c")
    assert [url[-1] for url in gateways.in_turn()] == ["b", "a", "c"]
    assert [url[-1] for url in gateways.in_turn()] == ["a", "b", "c"]
    gateways.avoid("http://a")
    gateways.avoid("http://b")
    assert [url[-1] for url in gateways.in_turn()] == ["a", "b", "c"]
    now = 105.1
    assert [url[-1] for url in gateways.in_turn()] == ["b", "c", "a"]


async def test_a_caller_with_little_time_does_not_take_a_grant_of_one_with_more() -> None:
    async def long_wait(request: web.Request) -> object:
        answer = await good(request)
        return {**answer, "uses": 4, "expected_wait": 8.0} if request.path == "/lookup" else answer

    seen = Seen(long_wait)
    async with gateway(seen) as url, AsyncClient(url) as shoal:
        lookups = []
        for seconds in (30, 30, 10, 11, 30, 8):
            await shoal.predict(b"image", timeout=seconds)
            lookups.append(seen.count("/lookup"))
    assert lookups == [1, 1, 2, 2, 2, 3]  # a wait of 8 s wants 10.7 s
    told = [int(request.headers["Shoal-Timeout-Ms"]) for request in seen.requests if request.path == "/lookup"]
    assert [round(ms / 1000) for ms in told] == [30, 10, 8]


async def test_a_call_has_one_request_id_however_often_it_is_tried() -> None:
    async def third_time(request: web.Request) -> object:
        uploads = seen.count("/predict")
        if request.path == "/predict" and uploads % 3:
            return await refusing(errors.NotReady())(request)
        return await good(request)

    seen = Seen(third_time)
    async with gateway(seen) as url, AsyncClient(url) as shoal:
        for _ in range(2):
            await shoal.predict(b"image", timeout=10)
    ids = [request.headers["X-Request-ID"] for request in seen.requests]
    paths = [request.path for request in seen.requests]
    again = ["/lookup", "/lookup"]  # the second after a pause: the first named the worker that had failed
    assert paths == ["/lookup", "/predict", *again, "/predict", "/predict"] * 2  # direct, direct, proxy
    assert len(set(ids[:6])) == len(set(ids[6:])) == 1
    assert ids[0] != ids[6]


@pytest.mark.parametrize("mode", ASKED)
async def test_bulk_images_say_so_and_share_no_grant_with_interactive_ones(mode: Mode) -> None:
    async def generous(request: web.Request) -> object:
        answer = await good(request)
        return {**answer, "uses": 9} if request.path == "/lookup" else answer

    seen = Seen(generous)
    async with gateway(seen) as url, AsyncClient(url, mode=mode) as shoal:
        await shoal.predict(b"image", priority="bulk")
        await shoal.predict(b"image")
        async for outcome in shoal.predict_many([b"image"], priority="bulk"):
            assert outcome.answer is not None
    asked = [request.query.get("priority") for request in seen.requests if request.path == ASKED[mode]]
    assert asked == (["bulk", None] if mode == "direct" else ["bulk", None, "bulk"])


@pytest.mark.parametrize("state", ["silent", "unreachable", "gone"])
async def test_a_direct_upload_to_a_worker_that_is_gone_is_given_up(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr("shoal.presence._AFTER", 0.05)

    async def one_hangs(request: web.Request) -> object:
        if request.path == "/lookup":
            name = "quick" if request.query.get("exclude") == "hung" else "hung"
            return {**await good(request), "url": f"{request.url.origin()}/{name}", "incarnation": name}
        if request.path.startswith("/workers/"):
            return {"state": state}
        return await (silent if request.path == "/hung" else good)(request)

    seen = Seen(one_hangs)
    async with gateway(seen) as url, AsyncClient(url) as shoal:
        assert (await shoal.predict(b"image", timeout=20)).worker == "w"
    assert [seen.count(path) for path in ("/hung", "/workers/hung", "/quick")] == [1, 1, 1]


@pytest.mark.parametrize("state", ["ready", "draining", "ejected", None])
async def test_a_direct_upload_that_takes_long_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    """Also when no gateway answers: that says nothing of the worker."""
    monkeypatch.setattr("shoal.presence._AFTER", 0.01)
    monkeypatch.setattr("shoal.presence._EVERY", 0.01)
    asked = asyncio.Event()

    async def takes_long(request: web.Request) -> object:
        if request.path.startswith("/workers/"):
            if seen.count(request.path) > 2:
                asked.set()
            return {"state": state} if state else await broken(request)
        if request.path == "/predict":
            await asked.wait()
        return await good(request)

    seen = Seen(takes_long)
    async with gateway(seen) as url, AsyncClient(url) as shoal:
        assert (await shoal.predict(b"image", timeout=20)).worker == "w"
    assert seen.count("/predict") == 1


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


@pytest.mark.parametrize("mode", ASKED)
async def test_what_may_be_asked_with_an_image(mode: Mode) -> None:
    seen = Seen(good)
    async with gateway(seen) as url, AsyncClient(url, mode=mode) as shoal:
        options: dict[str, str | float] = {"threshold": 0.3, "shape": "boxes"}
        await shoal.predict(b"image", model="cats", label="stable", key="user 7", top_k=2, options=options)
        async for outcome in shoal.predict_many([b"image"], version="3", options={"threshold": 1}):
            assert outcome.answer is not None
    whom = [dict(request.query) for request in seen.requests if request.path == ASKED[mode]]
    what = [dict(request.query) for request in seen.requests if request.path == "/predict"]
    first, second = {"threshold": "0.3", "shape": "boxes", "top_k": "2"}, {"threshold": "1"}
    named = [{"model": "cats", "label": "stable", "key": "user 7"}, {"version": "3"}]
    if mode == "direct":
        assert whom == [{"n": "1", **query} for query in named]
        assert what == [first, second]
    else:
        assert whom == what == [first | named[0], second | named[1]]


async def test_a_grant_is_for_one_label_and_images_with_keys_share_none() -> None:
    async def generous(request: web.Request) -> object:
        answer = await good(request)
        return {**answer, "uses": 9} if request.path == "/lookup" else answer

    seen = Seen(generous)
    async with gateway(seen) as url, AsyncClient(url) as shoal:
        for label in (None, "a", "b", "a", None):
            await shoal.predict(b"image", label=label)
        for key in ("k", "k", "l"):
            await shoal.predict(b"image", key=key)
    lookups = [request.query for request in seen.requests if request.path == "/lookup"]
    assert [query.get("label") for query in lookups[:3]] == [None, "a", "b"]
    assert [(query["n"], query.get("key")) for query in lookups[3:]] == [("1", "k"), ("1", "k"), ("1", "l")]


async def test_by_content_every_image_is_looked_up_by_its_digest() -> None:
    seen = Seen(good)
    images = [b"one", b"two", b"one"]
    async with gateway(seen) as url:
        for mode in ASKED:
            async with AsyncClient(url, mode=mode, by_content=True) as shoal:
                for image in images:
                    await shoal.predict(image, timeout=5)
    lookups = [request.query["digest"] for request in seen.requests if request.path == "/lookup"]
    assert lookups == [hashlib.sha256(image).hexdigest() for image in images]


async def test_by_content_a_worker_that_fails_is_not_asked_again() -> None:
    async def one_is_bad(request: web.Request) -> object:
        if request.path == "/lookup":
            name = "good" if request.query.get("exclude") == "bad" else "bad"
            return {**await good(request), "url": f"{request.url.origin()}/{name}", "incarnation": name}
        return await (broken if request.path == "/bad" else good)(request)

    seen = Seen(one_is_bad)
    async with gateway(seen) as url, AsyncClient(url, by_content=True) as shoal:
        assert (await shoal.predict(b"image", timeout=10)).worker == "w"
    assert [seen.count(path) for path in ("/lookup", "/bad", "/good")] == [2, 1, 1]


async def test_the_command_line_asks_the_same(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"image")
    seen = Seen(good)
    command = ["predict", "--proxy", str(tmp_path / "cat.jpg"), "--key", "k", "--option", "threshold=0.3"]
    async with gateway(seen) as url:
        for which in (["--version", "2"], ["--label", "stable", "--option", "size=7"]):
            assert await asyncio.to_thread(cli.main, [*command, "--gateway", url, *which]) == 0
    assert [dict(request.query) for request in seen.requests] == [
        {"version": "2", "key": "k", "threshold": "0.3"},
        {"label": "stable", "key": "k", "threshold": "0.3", "size": "7"},
    ]


@pytest.mark.parametrize("wrong", [["--version", "1", "--label", "a"], ["--option", "threshold"]])
def test_the_command_line_refuses_what_makes_no_sense(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "cat.jpg", *wrong])
    assert caught.value.code == 2
    assert "not allowed with" in (said := capsys.readouterr().err) or "is not NAME=VALUE" in said
