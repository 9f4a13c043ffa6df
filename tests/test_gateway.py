"""A gateway's handlers before workers that write down what reaches them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from discovery.publications import Publications
from gateway.app import Gateway
from gateway.proxy import Proxy
from shoal import tickets
from shoal.metrics import GatewayMetrics
from shoal.publication import PREFIX, encode
from shoal.settings import GatewaySettings
from shoal.tickets import Signer, Verifier
from shoal.wire import ModelLoad
from tests.test_fleet import Node, load, scene
from tests.test_versions import digits, known

IMAGES = [f"image {number}".encode() for number in range(40)]


@dataclass
class Upload:
    worker: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    version: str


@dataclass
class Recorder(Node):
    """A worker that answers every upload, or ``refuses`` it with that status."""

    uploads: list[Upload] = field(default_factory=list)
    refuses: int = 0
    keys: Path | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/load", self._load)
        app.router.add_post("/predict", self._predict)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _predict(self, request: web.Request) -> web.Response:
        await request.read()
        assert self.keys is not None
        ticket = Verifier(self.keys, self.member.incarnation).verify(request.headers["Authorization"].partition(" ")[2])
        version = ticket.model.rpartition("@")[2]
        self.uploads.append(Upload(self.name, list(request.query.items()), request.headers, version))
        if self.refuses:
            return web.Response(status=self.refuses)
        headers = {"Content-Type": "image/png", "Shoal-Cache": "hit", "X-Own": "secret"}
        return web.Response(body=b"picture", headers=headers)


@dataclass
class Door:
    """A gateway's public listener, and the URL of the internal one."""

    url: str
    session: aiohttp.ClientSession
    workers: list[Recorder]
    internal: str = ""

    @property
    def uploads(self) -> list[Upload]:
        return [upload for worker in self.workers for upload in worker.uploads]

    async def predict(self, query: str = "", body: bytes = b"image", **headers: str) -> aiohttp.ClientResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.url}predict{query}", data=body, headers=sent) as response:
            await response.read()
            return response

    async def lookup(self, query: str = "", **headers: str) -> Any:
        async with self.session.get(f"{self.url}lookup{query}", headers=headers) as response:
            return await response.json()


@asynccontextmanager
async def door(tmp_path: Path, *workers: Recorder, publications: Publications | None = None) -> AsyncIterator[Door]:
    tickets.generate(tmp_path / "key", tmp_path / "keys")
    for worker in workers:
        worker.keys = tmp_path / "keys"
    arguments = ["--discovery", "static://h:1", "--authentication", "off", "--ticket-key", str(tmp_path / "key")]
    settings = GatewaySettings.load(arguments)
    registry = CollectorRegistry()
    async with scene(*workers, publications=publications) as s, Proxy.open() as proxy:
        gateway = Gateway(
            settings,
            "g",
            fleet=s.fleet,
            proxy=proxy,
            signer=Signer.load(tmp_path / "key"),
            keys=None,
            gateway_metrics=GatewayMetrics(registry),
            registry=registry,
        )
        async with (
            TestServer(gateway.public_app()) as server,
            TestServer(gateway.internal_app()) as internal,
            aiohttp.ClientSession() as session,
        ):
            yield Door(str(server.make_url("/")), session, list(workers), str(internal.make_url("")))


def both(name: str, depth: int = 0, *, caches: bool = False) -> Recorder:
    """A worker of two versions that has room for a whole test."""
    state: ModelLoad = msgspec.structs.replace(load(depth, 0.0, capacity=1000), caches=caches)
    return Recorder(name, {"digits@1": state, "digits@2": state})


async def test_a_job_may_wait_as_long_as_it_likes_by_lookup_too(tmp_path: Path) -> None:
    async with door(tmp_path, Recorder("a", {"digits@1": load(100, 10.0, capacity=1000)})) as d:
        assert (await d.lookup())["error"]["code"] == "queue_full"
        assert (await d.lookup(Prefer="respond-async"))["expected_wait"] > 900
        assert (await d.lookup(Prefer="respond-async=x"))["error"]["code"] == "invalid_option"


async def test_what_is_not_the_gateways_own_is_passed_on(tmp_path: Path) -> None:
    async with door(tmp_path, both("a")) as d:
        query = "?model=digits&version=1&key=k&priority=bulk&exclude=x&n=1&format=json&ticket=t&digest=0"
        answer = await d.predict(
            f"{query}&top_k=3&threshold=0.5&new=%C3%BC%26&new=2&odd=%ff",
            Accept="image/png",
            Cache_Control="no-cache",
            X_Other="mine",
        )
    assert answer.status == 200
    upload = d.uploads[0]
    assert upload.query[:4] == [("top_k", "3"), ("threshold", "0.5"), ("new", "ü&"), ("new", "2")]
    assert [name for name, _ in upload.query[4:]] == ["odd"]
    assert (upload.headers["Accept"], upload.headers["Cache-Control"]) == ("image/png", "no-cache")
    assert "X-Other" not in upload.headers
    assert (answer.headers["Content-Type"], answer.headers["Shoal-Cache"]) == ("image/png", "hit")
    assert "X-Own" not in answer.headers


async def test_a_redirect_keeps_the_options(tmp_path: Path) -> None:
    async with door(tmp_path, both("a")) as d:
        url = f"{d.url}predict?redirect=1&model=digits&top_k=3&threshold=0.5"
        async with d.session.post(url, data=b"image", allow_redirects=False) as response:
            location = response.headers["Location"]
    assert response.status == 307
    assert [part.partition("=")[0] for part in location.partition("?")[2].split("&")] == [
        "ticket",
        "top_k",
        "threshold",
    ]


@pytest.mark.parametrize("way", ["query", "header"])
async def test_equal_keys_get_equal_versions(tmp_path: Path, way: str) -> None:
    publications = known(digits("1", "2", traffic={"1": 1, "2": 1}))
    async with door(tmp_path, both("a"), both("b"), publications=publications) as d:
        for key in [f"k{number}" for number in range(12)] * 3:
            if way == "query":
                await d.predict(f"?key={key}")
            else:
                await d.predict(Shoal_Key=key)
        versions = [upload.version for worker in d.workers for upload in worker.uploads]
        assert set(versions) == {"1", "2"}
        looked_up = [(await d.lookup(f"?key=k{number}"))["version"] for number in range(12)]
        for number, version in enumerate(looked_up):
            before = len(d.uploads)
            await d.predict(f"?key=k{number}")
            assert len(d.uploads) == before + 1
            assert version in [worker.uploads[-1].version for worker in d.workers if worker.uploads]
        assert (await d.lookup("?key=k1&version=2"))["version"] == "2"


async def test_requests_without_a_key_are_split_by_their_ids(tmp_path: Path) -> None:
    publications = known(digits("1", "2", traffic={"1": 1, "2": 1}))
    async with door(tmp_path, both("a"), publications=publications) as d:
        first = [(await d.predict(X_Request_ID=f"r{number}")).status for number in range(20)]
        versions = [upload.version for upload in d.uploads]
        for number in range(20):
            await d.predict(X_Request_ID=f"r{number}")
    assert first == [200] * 20
    assert set(versions) == {"1", "2"}
    assert [upload.version for upload in d.uploads] == versions * 2


async def test_a_request_that_is_sent_again_keeps_its_version(tmp_path: Path) -> None:
    publications = known(digits("1", "2", traffic={"1": 1, "2": 1}))
    refusing, busy = both("a"), both("b", depth=900)
    refusing.refuses = 503
    async with door(tmp_path, refusing, busy, publications=publications) as d:
        for number in range(20):
            assert (await d.predict(f"?key=k{number}")).status == 200
    versions = [upload.version for upload in refusing.uploads]
    assert (len(versions), set(versions)) == (20, {"1", "2"})
    assert [upload.version for upload in busy.uploads] == versions


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?version=2", 200, None),
        ("?label=stable", 200, None),
        ("?label=gold", 404, "unknown_label"),
        ("?version=3", 404, "unknown_model"),
        ("?model=cats&label=stable", 404, "unknown_model"),
        ("?version=1&label=stable", 400, "invalid_option"),
        (f"?key={'k' * 256}", 200, None),
        (f"?key={'k' * 257}", 400, "invalid_option"),
        (f"?digest={'A' * 64}", 200, None),
        (f"?digest={'g' * 64}", 400, "invalid_option"),
        ("?digest=abc", 400, "invalid_option"),
    ],
)
async def test_what_a_lookup_may_say(tmp_path: Path, query: str, status: int, code: str | None) -> None:
    publications = known(digits("1", "2", labels={"stable": "1"}))
    async with (
        door(tmp_path, both("a"), publications=publications) as d,
        d.session.get(f"{d.url}lookup{query}") as response,
    ):
        document = await response.json()
    assert (response.status, document.get("error", {}).get("code")) == (status, code)


async def test_the_status_shows_what_is_published(tmp_path: Path) -> None:
    publications = known(digits("1", "2", "10", labels={"stable": "2"}, traffic={"stable": 9, "10": 1}))
    async with door(tmp_path, both("a"), publications=publications) as d:
        async with d.session.get(f"{d.url}status") as response:
            document = await response.json()
        assert document["models"] == {
            "digits": {
                "versions": ["1", "2", "10"],
                "labels": {"stable": "2"},
                "traffic": {"stable": 9.0, "10": 1.0},
            }
        }
        publications.settle({f"{PREFIX}digits": encode(digits("3"))})
        async with d.session.get(f"{d.url}status") as response:
            assert (await response.json())["models"]["digits"]["versions"] == ["3"]


async def test_a_lookup_by_content_always_names_the_same_worker(tmp_path: Path) -> None:
    async with door(tmp_path, both("a"), both("b"), both("c")) as d:
        named: dict[str, set[str]] = {}
        for _ in range(3):
            for image in IMAGES:
                digest = hashlib.sha256(image).hexdigest()
                named.setdefault(digest, set()).add((await d.lookup(f"?digest={digest}"))["worker"])
    assert {len(workers) for workers in named.values()} == {1}
    assert set.union(*named.values()) == {"a", "b", "c"}


@pytest.mark.parametrize("kind", ["caching", "not caching"])
async def test_equal_bodies_go_to_the_worker_that_has_the_answer(tmp_path: Path, kind: str) -> None:
    workers = [both(name, caches=kind == "caching") for name in "abc"]
    async with door(tmp_path, *workers) as d:
        for _ in range(4):
            for image in IMAGES[:10]:
                await d.predict(body=image)
        seen = [len(worker.uploads) for worker in workers]
        assert sum(seen) == 40
        assert all(count % 4 == 0 for count in seen) == (kind == "caching")
        document = await d.lookup(f"?digest={hashlib.sha256(IMAGES[0]).hexdigest()}")
        before = [len(worker.uploads) for worker in workers]
        await d.predict(body=IMAGES[0])
        grown = [worker.name for worker, count in zip(workers, before, strict=True) if len(worker.uploads) > count]
        assert kind == "not caching" or grown == [document["worker"]]
