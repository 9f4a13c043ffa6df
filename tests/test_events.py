"""The live state: who hears it, when, and what it counts; and the drain that an admin may ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from discovery import Member
from gateway.app import Gateway
from gateway.events import Events
from gateway.known_worker import Worker
from gateway.proxy import Proxy
from gateway.rates import Rates
from shoal import http, keys, service, tickets
from shoal.errors import InvalidTicket, WrongWorker
from shoal.keys import Holder, KeyRing
from shoal.metrics import GatewayMetrics, HttpMetrics
from shoal.settings import GatewaySettings
from shoal.tickets import Signer, Verifier
from shoal.wire import LoadReport, ModelLoad, Served
from tests import nodes
from tests.clusters import eventually_async
from tests.photos import photo
from tests.redis_servers import RedisServer
from tests.test_fleet import Node, load, scene
from worker.tally import Tallies, Tally


@dataclass
class Obedient(Node):
    """A worker that is told to drain, and writes down what it was shown."""

    keys: Path | None = None
    subject: str = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/load", self._load)
        app.router.add_post("/drain", self._drain)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _drain(self, request: web.Request) -> web.Response:
        assert self.keys is not None
        verifier = Verifier(self.keys, self.member.incarnation)
        token = request.headers["Authorization"].partition(" ")[2]
        with pytest.raises(InvalidTicket):
            verifier.verify(token)
        self.subject = verifier.verify_order(token, "drain")
        return web.Response(status=202)


@dataclass
class House:
    """A gateway with keys."""

    gateway: Gateway
    session: aiohttp.ClientSession
    guest: str
    admin: str

    def listen(self, key: str) -> Any:
        return self.session.get("/events", headers={"X-API-Key": key})

    async def drain(self, key: str, incarnation: str) -> tuple[int, str]:
        path = f"/workers/{incarnation}/drain"
        async with self.session.post(path, headers={"X-API-Key": key}) as response:
            document = await response.json()
            return response.status, document.get("error", {}).get("code", "")


@asynccontextmanager
async def house(folder: Path, *workers: Node, authentication: bool = True) -> AsyncIterator[House]:
    tickets.generate(folder / "key", folder / "keys")
    guest, admin = keys.add(folder / "api-keys", "guest"), keys.add(folder / "api-keys", "boss", is_admin=True)
    arguments = ["--discovery", "static://h:1", "--ticket-key", str(folder / "key"), "--authentication", "off"]
    registry = CollectorRegistry()
    async with scene(*workers) as s, Proxy.open() as proxy:
        gateway = Gateway(
            GatewaySettings.load(arguments),
            "g",
            fleet=s.fleet,
            proxy=proxy,
            signer=Signer.load(folder / "key"),
            keys=KeyRing(folder / "api-keys") if authentication else None,
            gateway_metrics=GatewayMetrics(registry),
            registry=registry,
        )
        server = TestServer(gateway.public_app(), handler_cancellation=True)
        await server.start_server()
        async with service.background(gateway.events.run()), aiohttp.ClientSession(str(server.make_url(""))) as session:
            yield House(gateway, session, guest, admin)
        await server.close()


async def event(response: aiohttp.ClientResponse) -> tuple[str, Any]:
    """The next one, comments left out."""
    while True:
        lines = []
        while line := (await response.content.readline()).decode().rstrip("\n"):
            lines.append(line)
        if lines and not lines[0].startswith(":"):
            name, data = lines
            return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))
        if response.content.at_eof():
            return "end", None


# --- events ----------------------------------------------------------------------------------------------------------


async def test_a_listener_hears_who_it_is_then_every_change(tmp_path: Path) -> None:
    worker = Node("a", {"fake@1": load()})
    async with house(tmp_path, worker) as home, home.listen(home.guest) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert await event(response) == ("hello", {"name": "guest", "admin": False})
        name, state = await event(response)
        assert name == "state"
        assert [w["state"] for w in state["workers"]] == ["ready"]
        worker.models = {"fake@1": load(3)}
        while state["workers"][0]["models"]["fake@1"]["queue_depth"] != 3:
            _, state = await event(response)


async def test_without_a_key_nobody_listens(tmp_path: Path) -> None:
    async with house(tmp_path) as home, home.listen("") as response:
        assert response.status == 401


async def test_a_key_that_is_taken_back_hears_no_more(tmp_path: Path) -> None:
    worker = Node("a", {"fake@1": load()})
    async with house(tmp_path, worker) as home, home.listen(home.guest) as response:
        await event(response)
        keys.remove(tmp_path / "api-keys", "guest")
        said, depth = "hello", 0
        while said != "end":
            depth += 1
            worker.models = {"fake@1": load(depth % 9)}  # news each second
            said, _ = await event(response)


async def test_a_drain_ends_every_listener_and_takes_no_more(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        async with home.listen(home.guest) as response:
            await event(response)
            home.gateway.drain()
            while (await event(response))[0] != "end":
                pass
        async with home.listen(home.guest) as response:
            assert (await response.json())["error"]["code"] == "draining"


async def test_there_is_room_for_so_many_listeners(tmp_path: Path) -> None:
    async with scene() as s:
        events = Events("g", s.fleet, most=2)
        app = web.Application(middlewares=[http.middleware(HttpMetrics(CollectorRegistry()), lambda: False)])

        async def listen(request: web.Request) -> web.StreamResponse:
            return await events.listen(request, lambda: Holder("somebody"))

        app.router.add_get("/events", listen)
        server = TestServer(app, handler_cancellation=True)
        await server.start_server()
        async with aiohttp.ClientSession(str(server.make_url(""))) as session:
            async with session.get("/events") as one, session.get("/events") as other:
                await event(one)
                await event(other)
                async with session.get("/events") as third:
                    assert third.status == 429
                    assert third.headers["Shoal-Code"] == "too_many_listeners"
            await eventually_async(
                lambda: _is(repr(events) == "<Events: 0 listeners>"), within=5, what="they have left"
            )
        await server.close()


async def _is(value: bool) -> bool:
    return value


async def test_a_slow_listener_misses_states(tmp_path: Path) -> None:
    async with scene(Node("a", {"fake@1": load()})) as s:
        events = Events("g", s.fleet)
        events._listeners = 1  # the one below
        written: list[str] = []
        reads = asyncio.Event()

        class Slow(web.StreamResponse):
            async def write(self, data: bytes | bytearray | memoryview) -> None:
                await reads.wait()
                written.append(bytes(data).decode())

        telling = asyncio.create_task(events._tell(Slow(), lambda: Holder("somebody")))
        for depth in range(50):
            events.proxied_bytes = depth
            events.look()
            await asyncio.sleep(0)
        reads.set()
        await eventually_async(lambda: _is('"proxied_bytes":49' in "".join(written)), within=5, what="the last one")
        assert len(written) <= 2
        telling.cancel()


async def test_what_stays_the_same_is_not_told_again(tmp_path: Path) -> None:
    worker = Node("a", {"fake@1": load()})
    async with scene(worker) as s:
        events = Events("g", s.fleet)
        events._listeners = 1
        for _ in range(100):  # until the last minute is full
            events.look()
        news = events._news
        events.look()
        assert not news.is_set()


# --- rates -----------------------------------------------------------------------------------------------------------


def told(*, images: int, answers: int = 0, seconds: float = 0.0, direct: int = 0, incarnation: str = "w-1") -> Worker:
    worker = Worker(Member("worker", "w", incarnation, "http://w", None))
    worker.settle(
        LoadReport(
            "w",
            incarnation,
            models={"fake@1": ModelLoad("ready", images=images)},
            served={"fake@1": Served(answers, seconds, direct)},
        )
    )
    return worker


async def test_a_rate_is_what_came_within_three_seconds() -> None:
    rates = Rates()
    rates.sample([told(images=1000, answers=1000, direct=10**9)])
    for images in (1003, 1009, 1012):
        rates.sample([told(images=images, answers=images, seconds=images * 0.02, direct=10**9 + images)])
    minute = rates.document()["fake@1"]
    assert minute["images"] == [0, 1, 3, 4], "what was counted before we came is not ours"
    assert minute["ms"][-1] > 0
    assert minute["answers"] == 12
    assert minute["direct_bytes"] == 1012


async def test_a_worker_that_begins_anew_takes_nothing_back() -> None:
    rates = Rates()
    rates.sample([told(images=100)])
    rates.sample([told(images=130)])
    rates.sample([told(images=5, incarnation="w-2")])
    rates.sample([told(images=8, incarnation="w-2")])
    assert sum(rates.document()["fake@1"]["images"]) >= 0
    assert rates.document()["fake@1"]["images"][-1] == 11
    for _ in range(70):
        rates.sample([])
    assert rates.document() == {}, "what is not served any more is forgotten after its minute"


def test_tallies_of_fronts_outlive_them() -> None:
    front, node = Tally(), Tallies()
    front.answered("fake@1", seconds=0.5)
    front.uploaded("fake@1", 100)
    node.heard(0, front.document())
    node.heard(1, front.document())
    node.ended(0)
    node.heard(0, Tally().document())
    assert node.total() == {"fake@1": Served(2, 1.0, 200)}


def test_what_a_gateway_carries_is_not_direct(tmp_path: Path) -> None:
    tickets.generate(tmp_path / "key", tmp_path / "keys")
    signer, verifier = Signer.load(tmp_path / "key"), Verifier(tmp_path / "keys", "w")
    terms: dict[str, Any] = {"audience": "w", "model": "m@1", "subject": "s", "max_bytes": 9, "lifetime": 9}
    ways = [verifier.verify(signer.sign(uses=uses, **terms)).way for uses in (0, 1, 5)]
    assert ways == ["proxied", "direct", "direct"]


async def test_a_direct_upload_that_is_refused_counts_too(
    valkey: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, nothing = photo(1), b"no picture"
    told: dict[str, Any] = {}

    async def tells() -> bool:
        for line in capsys.readouterr().out.splitlines():
            told.update(json.loads(line).get("served", {}))
        return bool(told.get("fake@1", {}).get("direct_bytes", 0) >= len(picture) + len(nothing))

    async with nodes.node(valkey, nodes.fake()) as on:
        assert [(await on.post(data=body))[0] for body in (picture, nothing)] == [200, 415]
        await eventually_async(tells, within=10, what="the front tells its tally")
    assert (told["fake@1"]["answers"], told["fake@1"]["direct_bytes"]) == (1, len(picture) + len(nothing))


# --- drain -----------------------------------------------------------------------------------------------------------


async def test_an_admin_has_a_worker_drained(tmp_path: Path) -> None:
    worker = Obedient("a", {"fake@1": load()}, keys=tmp_path / "keys")
    async with house(tmp_path, worker) as home:
        assert await home.drain(home.admin, "a-1") == (202, "")
        assert worker.subject == "boss"
        assert await home.drain(home.admin, "b-1") == (404, "unknown_worker")
        worker.subject = ""
        assert await home.drain(home.guest, "a-1") == (403, "not_allowed")
        assert await home.drain("", "a-1") == (401, "missing_key")
        assert worker.subject == ""


async def test_without_keys_nobody_is_an_admin(tmp_path: Path) -> None:
    worker = Obedient("a", {"fake@1": load()}, keys=tmp_path / "keys")
    async with house(tmp_path, worker, authentication=False) as home:
        assert await home.drain("", "a-1") == (403, "not_allowed")


async def test_a_worker_that_does_not_obey(tmp_path: Path) -> None:
    async with house(tmp_path, Node("a", {"fake@1": load()})) as home:
        assert await home.drain(home.admin, "a-1") == (502, "bad_gateway")


def test_an_order_is_no_ticket_and_a_ticket_no_order(tmp_path: Path) -> None:
    tickets.generate(tmp_path / "key", tmp_path / "keys")
    signer, verifier = Signer.load(tmp_path / "key"), Verifier(tmp_path / "keys", "w")
    order = signer.sign_order("drain", audience="w", subject="boss", lifetime=9)
    ticket = signer.sign(audience="w", model="m@1", subject="s", max_bytes=9, uses=1, lifetime=9)
    assert verifier.verify_order(order, "drain") == "boss"
    for attempt in (lambda: verifier.verify(order), lambda: verifier.verify_order(ticket, "drain")):
        with pytest.raises(InvalidTicket):
            attempt()
    with pytest.raises(InvalidTicket):
        verifier.verify_order(order, "restart")
    with pytest.raises(WrongWorker):
        Verifier(tmp_path / "keys", "other").verify_order(order, "drain")
