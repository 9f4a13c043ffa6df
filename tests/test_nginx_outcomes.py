"""How workers fail before a real nginx, what it tells a gateway of that, and what a client hears in the end."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.forwarding import Outcome
from shoal import forwarding
from shoal.names import Names
from tests.nginx_server import Nginx, following
from tests.test_fleet import load
from tests.test_gateway import Door, Recorder, both, door

pytestmark = pytest.mark.timeout(120)


@dataclass
class Refusing(Recorder):
    """A worker that answers every upload with an error of its own."""

    status: int = 429
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0

    async def _predict(self, request: web.Request) -> web.Response:
        await request.read()
        self.asked += 1
        return web.Response(status=self.status, headers=self.headers)


class Breaking(Refusing):
    """One whose connection breaks under every upload."""

    async def _predict(self, request: web.Request) -> web.Response:
        await request.read()
        self.asked += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


class Named(Recorder):
    """One that is announced by its host's name."""

    async def start(self) -> None:
        await super().start()
        self.url = self.url.replace("127.0.0.1", "localhost")


def refusing(name: str, kind: type[Refusing] = Refusing, **said: Any) -> Refusing:
    return kind(name, {"digits@1": load(0, 0.0, capacity=1000)}, **said)


@asynccontextmanager
async def before(d: Door, *flags: str) -> AsyncIterator[Nginx]:
    """nginx before a gateway that lives here."""
    opened = following("--gateways", d.internal.rstrip("/"), "--processes", "1", *flags)
    nginx = await asyncio.to_thread(opened.__enter__)
    try:
        yield nginx
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def ask(d: Door, url: str, **headers: str) -> tuple[int, Mapping[str, str], Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with d.session.post(url, data=b"image", headers=sent) as response:
        body = await response.read()
        return response.status, response.headers, json.loads(body) if body[:1] == b"{" else body


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nginx says that it saw, as it says it."""
    told: list[str] = []
    read = Outcome.read

    def noted(text: str) -> Outcome | None:
        told.extend([text] if text else [])
        return read(text)

    monkeypatch.setattr(Outcome, "read", noted)
    return told


async def test_when_all_refuse_the_client_hears_what_they_said(tmp_path: Path, outcomes: list[str]) -> None:
    said = {"Shoal-Code": "queue_full", "Retry-After": "3"}
    workers = refusing("a", headers=said), refusing("b", headers=said)
    async with door(tmp_path, *workers) as d, before(d) as nginx:
        status, headers, body = await ask(d, f"{nginx.url}/predict")
    assert (status, body["error"]["code"], headers["Retry-After"]) == (429, "queue_full", "3")
    assert [worker.asked for worker in workers] == [1, 1]
    assert [text.partition(";")[0] for text in outcomes] == ["204 : 429", "204 : 429 : 204 : 429"]


async def test_a_worker_s_own_deadline_is_the_answer(tmp_path: Path, outcomes: list[str]) -> None:
    said = {"Shoal-Code": "deadline_exceeded"}
    workers = refusing("a", status=504, headers=said), refusing("b", status=504, headers=said)
    async with door(tmp_path, *workers) as d, before(d) as nginx:
        status, _, body = await ask(d, f"{nginx.url}/predict")
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (504, "deadline_exceeded", False)
    assert sum(worker.asked for worker in workers) == 1
    assert len(outcomes) == 1


async def test_a_worker_that_breaks_off_has_perhaps_executed(tmp_path: Path, outcomes: list[str]) -> None:
    workers = [refusing(name, Breaking) for name in "abc"]
    async with door(tmp_path, *workers) as d, before(d) as nginx:
        status, headers, body = await ask(d, f"{nginx.url}/predict")
    assert (status, body["error"]["code"], headers["Shoal-Uploads"]) == (502, "bad_gateway", "2")
    assert sum(worker.asked for worker in workers) == 2


async def test_a_worker_that_is_announced_by_a_name_is_reached(tmp_path: Path, outcomes: list[str]) -> None:
    worker = Named("a", {"digits@1": load(0, 0.0, capacity=1000)})
    async with door(tmp_path, worker) as d, before(d) as nginx:
        assert (await ask(d, f"{nginx.url}/predict"))[::2] == (200, b"picture")
    assert outcomes == []


@pytest.mark.parametrize(
    ("url", "seen"),
    [("http://nowhere.invalid:1", ["204 : ", "0.000 : ", ""]), ("http://127.0.0.1:1", ["204 : 502", "0.000 : -", "-"])],
)
async def test_who_cannot_be_reached_has_executed_nothing(
    tmp_path: Path, outcomes: list[str], monkeypatch: pytest.MonkeyPatch, url: str, seen: list[str]
) -> None:
    workers = both("a"), both("b")

    async def lost(names: Names, announced: str) -> str:
        return url if announced == workers[0].url else announced

    monkeypatch.setattr(Names, "with_address", lost)
    async with door(tmp_path, *workers) as d, before(d) as nginx:
        for _ in range(4):
            assert (await ask(d, f"{nginx.url}/predict"))[::2] == (200, b"picture")
    assert (len(workers[0].uploads), len(workers[1].uploads)) == (0, 4)
    assert outcomes
    for text in outcomes:
        status, connected, answered, *_ = text.split(";")
        assert [status, connected, answered.rpartition(": ")[2]] == seen


async def test_a_stream_opens_uploads_and_nothing_else(tmp_path: Path) -> None:
    async with door(tmp_path, both("a")) as d, before(d, "--streaming") as nginx:
        assert (await ask(d, f"{nginx.url}/stream/predict"))[::2] == (200, b"picture")
        assert (await ask(d, f"{nginx.url}/stream/v2/models/none/infer"))[0] == 404
        secret = f"/stream/jobs/{'0' * 32}"
        for path in (
            *("/stream/metrics", "/stream/targets", "/stream/forward/predict", "/stream/status", secret),
            *("/stream//metrics", "/stream/%6detrics", "/stream/predict/../metrics", "/stream/v2/models/a%2F..%2F../x"),
        ):
            status, said = await asyncio.to_thread(fetched, f"{nginx.url}{path}")
            assert (path, status, b"unknown_path" in said) == (path, 404, True)
        assert "0" * 32 not in (nginx.folder / "access.log").read_text()


def fetched(url: str) -> tuple[int, bytes]:
    """With the path as it is written here."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def test_no_answer_says_what_is_between_us(tmp_path: Path) -> None:
    hidden = dict.fromkeys((forwarding.WORKER, forwarding.STATE, forwarding.header("Authorization")), "secret")
    async with door(tmp_path, refusing("a", status=400, headers=hidden | {"X-Seen": "1"})) as d, before(d) as nginx:
        _, headers, _ = await ask(d, f"{nginx.url}/predict")
    assert (headers["X-Seen"], [name for name in headers if name.startswith("Shoal-Forward")]) == ("1", [])


@pytest.mark.parametrize(
    ("headers", "others"),
    [
        ({"Authorization": "Bearer one"}, [{"X_API_Key": str(n)} for n in range(3)]),
        ({"Authorization": "Bearer one"}, [{"Authorization": f"bEARER {' ' * n}one"} for n in range(3)]),
        ({"X_API_Key": "one"}, [{"Authorization": f"Basic {n}"} for n in range(3)]),
    ],
)
async def test_a_key_is_one_key_whatever_is_beside_it(
    tmp_path: Path, headers: dict[str, str], others: list[dict[str, str]]
) -> None:
    async with door(tmp_path, both("a")) as d, before(d, "--key-rate", "1", "--key-burst", "1") as nginx:
        statuses = [(await ask(d, f"{nginx.url}/predict", **(headers | other)))[0] for other in others]
        elsewhere = (await ask(d, f"{nginx.url}/predict", Authorization="Bearer two"))[0]
        said = nginx.log()
    assert (statuses[0], statuses[-1], elsewhere) == (200, 429, 200)
    assert "limiting requests" not in said
