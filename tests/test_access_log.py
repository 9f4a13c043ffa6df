"""One line for each request says who asked for what and how it ended, and one id leads to the model process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shoal import http
from shoal.access import Remote
from shoal.metrics import HttpMetrics
from tests.clusters import Cluster, eventually
from tests.photos import photo

ALWAYS = {"method", "path", "status", "code", "ms", "bytes", "sent", "model", "worker", "way", "subject", "remote"}


def _lines(cluster: Cluster, request_id: str, role: str) -> list[dict[str, Any]]:
    return cluster.log(message="request", request_id=request_id, role=role)


@pytest.mark.cluster
async def test_one_id_leads_from_the_gateway_to_the_model_process(cluster: Cluster) -> None:
    image, name = photo(71), "follow-me-71"
    async with (
        aiohttp.ClientSession(headers=cluster.headers | {"X-Request-ID": name}) as session,
        session.post(f"{cluster.gateway}/predict", data=image) as response,
    ):
        document = await response.json()
        sent = len(await response.read())
    eventually(lambda: _lines(cluster, name, "gateway"), within=5, what="the gateway has written its line")
    (gateway,), (front,) = _lines(cluster, name, "gateway"), _lines(cluster, name, "front")
    (executed,) = [record for record in cluster.log(message="executed", role="model") if name in record["request_ids"]]
    for line, way, subject in ((gateway, "proxied", "local"), (front, "proxied", "gateway:gateway1")):
        assert line.keys() >= ALWAYS
        assert (line["method"], line["path"], line["status"], line["code"]) == ("POST", "/predict", 200, "ok")
        assert (line["bytes"], line["sent"]) == (len(image), sent)
        assert (line["model"], line["worker"]) == ("fake@1", document["worker"])
        assert (line["way"], line["subject"], line["remote"]) == (way, subject, "127.0.0.1")
    assert gateway["ms"] >= front["ms"] >= executed["ms"]
    assert len(executed["jobs"]) == len(executed["request_ids"])


@pytest.mark.cluster
async def test_a_direct_upload_is_logged_where_it_came(cluster: Cluster) -> None:
    name = "follow-me-72"
    async with aiohttp.ClientSession(headers={"X-Request-ID": name}) as session:
        async with session.get(f"{cluster.gateway}/lookup", headers=cluster.headers) as response:
            grant = await response.json()
        async with session.post(f"{grant['url']}?ticket={grant['ticket']}", data=b"no picture") as response:
            assert response.status == 415
    eventually(lambda: _lines(cluster, name, "front"), within=5, what="the front has written its line")
    (lookup,), (upload,) = _lines(cluster, name, "gateway"), _lines(cluster, name, "front")
    assert (lookup["path"], lookup["way"], lookup["worker"]) == ("/lookup", "direct", grant["worker"])
    assert (upload["way"], upload["subject"], upload["worker"]) == ("direct", "local", grant["worker"])
    assert (upload["code"], upload["bytes"]) == ("unsupported_image", 10)
    assert grant["ticket"] not in cluster.log_file.read_text(encoding="utf-8")


@pytest.mark.cluster
async def test_server_timing_is_whole_by_proxy_too(cluster: Cluster) -> None:
    async with (
        aiohttp.ClientSession(headers=cluster.headers) as session,
        session.post(f"{cluster.gateway}/predict", data=photo(73)) as response,
    ):
        timing = _timing(response.headers)
    assert [*timing][-3:] == ["total", "upload", "gateway"]
    assert timing.keys() >= {"receive", "decode", "wait", "queue", "inference"}
    assert timing["gateway"] >= timing["total"] >= timing["inference"]
    assert timing["gateway"] >= timing["upload"]
    async with (
        aiohttp.ClientSession(headers=cluster.headers) as session,
        session.post(f"{cluster.gateway}/predict", data=b"no picture") as response,
    ):
        assert response.status == 415
        assert [*_timing(response.headers)] == ["upload", "gateway"]


def _timing(headers: Mapping[str, str]) -> dict[str, float]:
    parts = (part.strip().split(";dur=") for part in headers["Server-Timing"].split(","))
    return {name: float(ms) for name, ms in parts}


async def _remote_of(remote: Remote, *forwarded: str) -> str:
    seen: list[str] = []

    async def say(request: web.Request) -> web.Response:
        seen.append(remote.of(request))
        return web.Response()

    app = web.Application(middlewares=[http.middleware(HttpMetrics(CollectorRegistry()), lambda: False)])
    app.router.add_get("/", say)
    async with TestClient(TestServer(app)) as client:
        headers = [("X-Forwarded-For", value) for value in forwarded]
        async with client.get("/", headers=headers) as response:
            assert response.status == 200
    return seen[0]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "remote"),
    [
        ((), ("203.0.113.9",), "127.0.0.1"),  # nobody is believed
        (("10.0.0.0/8",), ("203.0.113.9",), "127.0.0.1"),  # the peer is no proxy of ours
        (("127.0.0.0/8",), (), "127.0.0.1"),
        (("127.0.0.0/8",), ("203.0.113.9",), "203.0.113.9"),
        (("127.0.0.0/8",), ("198.51.100.7, 203.0.113.9",), "203.0.113.9"),  # what came before, the caller wrote
        (("127.0.0.0/8", "10.0.0.0/8"), ("203.0.113.9, 10.0.0.2", "10.0.0.1"), "203.0.113.9"),
        (("127.0.0.0/8",), ("2001:db8::7",), "2001:db8::7"),
        (("127.0.0.0/8",), ("203.0.113.9, unknown",), "127.0.0.1"),
        (("127.0.0.0/8",), ('x" onmouseover=',), "127.0.0.1"),
        (("127.0.0.0/8",), ("fe80::1%zone",), "127.0.0.1"),
        (("0.0.0.0/0",), ("203.0.113.9",), "203.0.113.9"),
    ],
)
async def test_where_a_request_comes_from(trusted: tuple[str, ...], forwarded: tuple[str, ...], remote: str) -> None:
    assert await _remote_of(Remote(trusted), *forwarded) == remote


class _Peer:
    """As much of a request as is asked for its origin."""

    def __init__(self, remote: str, forwarded: str) -> None:
        self.remote = remote
        self.headers = self
        self._forwarded = forwarded

    def getall(self, name: str, default: Any) -> list[str]:
        return [self._forwarded]


@given(forwarded=st.text(max_size=60))
def test_whatever_is_forwarded_an_address_comes_out(forwarded: str) -> None:
    peer: Any = _Peer("10.0.0.1", forwarded)
    address = Remote(["10.0.0.0/8"]).of(peer)
    assert set(address) <= set("0123456789abcdefABCDEF.:")
