"""Discovery by a real Consul that is away, comes back empty, is tampered with, or wants a token."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from discovery import DiscoveryUnavailable, Member, connect
from discovery.blocking_query import advance
from discovery.consul import ConsulAgent
from discovery.registration import (
    LONGEST_META_VALUE,
    CheckTerms,
    definition,
    holds,
    member_from,
    meta,
    tagged_addresses,
    tags,
)
from tests.consul_server import ConsulServer, has_ipv6
from tests.discovery_tools import consul_binary, readiness, until, until_names, worker
from tests.needs import need

MANAGEMENT = "11111111-2222-3333-4444-555555555555"
WRITES = 'service_prefix "shoal-" { policy = "write" }\nnode_prefix "" { policy = "read" }'
SEES_NOTHING = 'key_prefix "x" { policy = "read" }'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConsulServer]:
    with ConsulServer(consul_binary(), tmp_path / "consul") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    """Default-deny ACLs, HTTPS beside HTTP, and no test stops it."""
    directory = tmp_path_factory.mktemp("shared")
    with ConsulServer(consul_binary(), directory, management=MANAGEMENT, tls=True) as running:
        yield running


def said(caplog: pytest.LogCaptureFixture, words: str, level: str = "WARNING") -> list[str]:
    return [r.getMessage() for r in caplog.records if words in r.getMessage() and r.levelname == level]


async def hear(caplog: pytest.LogCaptureFixture, words: str, level: str = "WARNING") -> None:
    for _ in range(100):
        if said(caplog, words, level):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not heard: {words}")


async def test_away_at_the_start(server: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(server.kill)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(readiness())
        discovery = await stack.enter_async_context(connect(server.url))
        impatient = await stack.enter_async_context(connect(server.url, snapshot_timeout=0.5))
        with pytest.raises(DiscoveryUnavailable, match=r"no snapshot of the workers within 0.5 s: Consul at http://"):
            await stack.enter_async_context(impatient.watch("worker"))
        watching = asyncio.create_task(stack.enter_async_context(discovery.watch("worker")))
        await stack.enter_async_context(discovery.membership(worker("a", url)))
        await asyncio.to_thread(server.start)
        await until_names(await watching, "a", within=10)
    assert len(said(caplog, "watching the workers")) == 2  # the impatient one's, too
    assert len(said(caplog, "registering a")) == 1


@pytest.mark.parametrize("persistent", [True, False], ids=["intact", "empty"])
async def test_away_and_back(tmp_path: Path, persistent: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "discovery")
    with ConsulServer(consul_binary(), tmp_path / "consul", persistent=persistent) as server:
        async with readiness() as url, connect(server.url) as discovery, AsyncExitStack() as stack:
            watch = await stack.enter_async_context(discovery.watch("worker"))
            for name in ("a", "b"):
                await stack.enter_async_context(discovery.membership(worker(name, url)))
            before = await until_names(watch, "a", "b")
            await asyncio.to_thread(server.kill)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watch.changed(before.index), 3)
            assert watch.directory is before
            await asyncio.to_thread(server.start)
            started = time.monotonic()
            await hear(caplog, "watching the workers: back, after", "INFO")
            await until_names(watch, "a", "b", within=10 - (time.monotonic() - started))
            print(f"whole {time.monotonic() - started:.2f} s after Consul's return")
    assert len(said(caplog, "watching the workers: Consul at")) == 1
    assert len(said(caplog, "watching the workers: back, after", "INFO")) == 1


async def test_leaving_does_not_wait_for_an_absent_consul(server: ConsulServer) -> None:
    async with readiness() as url, connect(server.url) as discovery:
        async with discovery.watch("worker") as watch, discovery.membership(worker("a", url)):
            await until_names(watch, "a")
            await asyncio.to_thread(server.kill)
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 2.5


async def test_somebody_else_deregisters_us(shared: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        readiness() as url,
        connect(shared.url, token=MANAGEMENT) as discovery,
        discovery.watch("worker") as watch,
        discovery.membership(worker("a", url)),
    ):
        for path in ("service/deregister/shoal-worker-a", "check/deregister/service:shoal-worker-a"):
            await until_names(watch, "a")
            await asyncio.to_thread(shared.call, "PUT", f"/v1/agent/{path}")
            held: dict[str, Any] = {}
            async with asyncio.timeout(10):
                while "service:shoal-worker-a" not in held:
                    await asyncio.sleep(0.1)
                    held = await asyncio.to_thread(shared.call, "GET", "/v1/agent/checks")
        await until_names(watch, "a", within=10)
    assert len(said(caplog, "missing or changed by others")) == 2


async def test_a_foreign_service_of_our_name_is_ignored(shared: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    async with readiness() as url, connect(shared.url, token=MANAGEMENT) as discovery:
        foreign = {"Name": "shoal-worker", "ID": "foreign", "Port": 1, "Meta": {"models": "[1"}}
        await asyncio.to_thread(shared.call, "PUT", "/v1/agent/service/register", foreign)
        async with discovery.watch("worker") as watch, discovery.membership(worker("a", url)):
            await until_names(watch, "a")
        await asyncio.to_thread(shared.call, "PUT", "/v1/agent/service/deregister/foreign")
    assert len(said(caplog, "ignored 'foreign'")) == 1


async def test_a_token_in_the_url_or_beside_it(shared: ConsulServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "99999999-0000-0000-0000-000000000000")
    token = shared.token(WRITES)
    async with readiness() as url:
        for discover in (connect(f"{shared.url}?token={token}"), connect(f"{shared.url}?token=x", token=token)):
            async with discover as discovery, discovery.watch("worker") as watch:
                async with discovery.membership(worker("a", url)):
                    await until_names(watch, "a")
                assert token not in repr(discovery) + repr(watch)
                await until_names(watch, within=2)


async def test_a_wrong_token_is_said(shared: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "99999999-0000-0000-0000-000000000000"
    async with (
        connect(shared.url, token=wrong, snapshot_timeout=1) as discovery,
        discovery.membership(worker("a", "http://127.0.0.1:1")),
    ):
        with pytest.raises(DiscoveryUnavailable, match=r"refuses: .*ACL not found.*; check the token"):
            async with discovery.watch("worker"):
                pass
    assert len(said(caplog, "registering a: Consul at")) == len(said(caplog, "watching the workers: Consul at")) == 1
    assert wrong not in caplog.text


@pytest.mark.parametrize("rules", [SEES_NOTHING, None], ids=["poor token", "no token"])
async def test_an_empty_fleet_under_acls_is_doubted(
    shared: ConsulServer, caplog: pytest.LogCaptureFixture, rules: str | None
) -> None:
    token = shared.token(rules) if rules else None
    async with connect(shared.url, token=token) as discovery, discovery.watch("worker") as watch:
        assert len(watch.directory) == 0
        await hear(caplog, "token without service:read")


async def test_an_empty_fleet_without_acls_is_not(server: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    async with readiness() as url, connect(server.url) as discovery, discovery.watch("worker") as watch:
        async with discovery.membership(worker("a", url)):
            await until_names(watch, "a")
        await until_names(watch)
    assert not said(caplog, "")


async def test_tls_with_a_client_certificate(shared: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    url = f"consul+https://127.0.0.1:{shared.https_port}"
    ca = shared.tls_options.partition("&")[0]
    async with (
        readiness() as ready,
        connect(f"{url}?{shared.tls_options}", token=MANAGEMENT) as discovery,
        discovery.watch("worker") as watch,
        discovery.membership(worker("a", ready)),
    ):
        await until_names(watch, "a")
    for lacking in (url, f"{url}?{ca}"):
        async with connect(lacking, snapshot_timeout=1) as discovery:
            with pytest.raises(DiscoveryUnavailable, match=r"no snapshot .* https://127.0.0.1"):
                async with discovery.watch("worker"):
                    pass


async def test_ipv6(shared: ConsulServer) -> None:
    need(has_ipv6(), "no IPv6 on the loopback")
    async with (
        readiness("::1") as url,
        connect(f"consul://[::1]:{shared.port}", token=MANAGEMENT) as discovery,
        discovery.watch("worker") as watch,
        discovery.membership(worker("six", url)),
    ):
        directory = await until_names(watch, "six")
        assert directory.members[0].internal_url.startswith("http://[::1]:")


async def test_the_last_of_a_burst_of_updates_is_seen(shared: ConsulServer) -> None:
    async with readiness() as url, connect(shared.url, token=MANAGEMENT) as discovery, AsyncExitStack() as stack:
        watch = await stack.enter_async_context(discovery.watch("worker"))
        membership = await stack.enter_async_context(discovery.membership(worker("a", url)))
        await until_names(watch, "a")
        for version in range(30):
            await membership.update(worker("a", url, models={f"digits@{version}": "ready"}))
            await asyncio.sleep(0.01)
        await until(watch, lambda directory: "digits@29" in directory.members[0].models, within=3)


@pytest.mark.parametrize(
    ("last", "answered", "expected"), [(0, "7", 7), (7, "7", 7), (7, "9", 9), (9, "3", 0), (0, "0", 1)]
)
def test_the_index(last: int, answered: str, expected: int) -> None:
    assert advance(last, answered) == expected


def test_what_is_registered() -> None:
    member = Member(
        "worker",
        "node/1",
        "i-1",
        "http://10.0.0.1:8600",
        public_url="https://[2001:db8::1]:8601",
        zone="EU West_1",
        version="2.3.1",
        models={"Cats&Dogs@7": "ready", "slow@1": "loading"},
    )
    wanted = definition("shoal", member, CheckTerms())
    assert (wanted["name"], wanted["service_id"]) == ("shoal-worker", "shoal-worker-node~2F1")
    assert (wanted["address"], wanted["port"]) == ("10.0.0.1", 8600)
    assert tags(member) == ["model-cats-dogs", "v2", "zone-eu-west-1"]
    assert tagged_addresses(member) == {"wan": {"address": "2001:db8::1", "port": 8601}}
    assert wanted["check"]["HTTP"] == "http://10.0.0.1:8600/readyz"
    assert (wanted["check"]["Interval"], wanted["check"]["Status"]) == ("1s", "critical")
    assert "TLSServerName" not in wanted["check"]  # which old agents refuse
    named = definition("shoal", member, CheckTerms(name="worker.shoal"))
    assert named["check"] == wanted["check"] | {"TLSServerName": "worker.shoal"}
    assert member_from({"Meta": wanted["meta"]}) == member
    assert not holds(None, wanted)


@pytest.mark.parametrize("count", [0, 1, 50, 400])
def test_models_fit_into_meta(count: int) -> None:
    member = worker("a", "http://h:1", models={f"a-model-named-{n}@{n}": "ready" for n in range(count)} or {"x@1": ""})
    pairs = meta(member)
    assert max(len(value.encode()) for value in pairs.values()) <= LONGEST_META_VALUE
    assert member_from({"Meta": pairs}) == member


@pytest.mark.parametrize(
    "member",
    [
        worker("a", "http://h:1", models={f"{'m' * 90}{n}@1": "ready" for n in range(300)}),
        worker("ü" * 300, "http://h"),
    ],
)
def test_what_does_not_fit_is_said(member: Member) -> None:
    with pytest.raises(DiscoveryUnavailable, match="does not fit into Consul's Meta"):
        meta(member)


def test_a_consul_agent_is_one_line() -> None:
    assert repr(ConsulAgent("::1", 8501, "https")) == "<ConsulAgent https://[::1]:8501>"
