"""A whole cluster over TLS: calls between its processes, clients, Consul's checks, and a renewal under load."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from shoal import AsyncClient, launcher, operations
from shoal.client import Mode
from shoal.errors import UntrustedServer
from shoal.launcher import Node, Plan, Running
from shoal.places import Remote
from tests.authority import Authority, shown_serial
from tests.clusters import eventually_async
from tests.consul_server import ConsulServer, free_port
from tests.discovery_tools import consul_binary
from tests.photos import fake_label, photo

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

WORKERS = ("worker1", "worker2")
WANTED = [
    *(f"{name}:worker,node,127.0.0.1" for name in WORKERS),
    "gateway1:gateway,node,127.0.0.1",
    "agent:consul",
    "admin:admin",
    "prometheus:prometheus",
    "web,127.0.0.1",
]


@dataclass(frozen=True)
class House:
    """A cluster over TLS, with Consul. Each service has a certificate of its own.

    ``worker3`` and ``gateway2`` have none yet.
    """

    running: Running
    consul: ConsulServer
    authority: Authority
    admins: Remote

    def client(self, mode: Mode) -> AsyncClient:
        return AsyncClient(
            self.running.gateways[0], api_key=self.running.api_key, mode=mode, timeout=30, ca=self.authority.ca
        )

    @property
    def internal_urls(self) -> dict[str, str]:
        """Of those with certificates."""
        return {name: url for name, url in self.running.internal_urls.items() if name in (*WORKERS, "gateway1")}

    def context(self, who: str) -> ssl.SSLContext:
        return self.authority.internal(who).calling()

    async def asked(self, url: str, who: str) -> tuple[int, str]:
        connector = aiohttp.TCPConnector(ssl=self.context(who), force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
            return response.status, await response.text()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "certificates")
    authority.issue(*WANTED)
    places = {name: f"https://127.0.0.1:{free_port()}" for name in WORKERS}
    nodes = (
        *(
            Node("worker", name, {"admin": place, **authority.settings(internal=name, public="web")})
            for name, place in places.items()
        ),
        Node("gateway", "gateway1", authority.settings(internal="gateway1", public="web")),
        Node("worker", "worker3"),
        Node("gateway", "gateway2"),
    )
    async with AsyncExitStack() as stack:
        checks = authority.internal("agent")
        consul = stack.enter_context(ConsulServer(consul_binary(), folder / "consul", checks=checks))
        plan = Plan(nodes=nodes, models=("fake",), discovery=consul.url)
        running = await stack.enter_async_context(launcher.cluster(plan))
        files = [str(path) for path in authority.internal("admin").all]
        house = House(running, consul, authority, Remote.of(",".join(places.values()), files))
        async with house.client("proxy") as client:
            await eventually_async(lambda: _all_are_known(client), within=30, what="the gateway knows all workers")
        yield house


async def _all_are_known(client: AsyncClient) -> bool:
    states = {worker["name"]: worker["state"] for worker in (await client.status())["workers"]}
    return states == {"worker1": "ready", "worker2": "ready", "worker3": "unreachable"}


async def test_consul_checks_over_tls(house: House) -> None:
    """It verifies who answers and shows its own certificate, so those who pass are there by TLS."""
    for service, count in (("shoal-worker", 2), ("shoal-gateway", 1)):

        async def passing(service: str = service, count: int = count) -> bool:
            found: Any = await asyncio.to_thread(house.consul.call, "GET", f"/v1/health/service/{service}?passing=1")
            urls = [str(entry["Service"]["Meta"]["internal_url"]) for entry in found]
            return sum(url.startswith("https://") for url in urls) == count

        await eventually_async(passing, within=30, what=f"{service} passes")


async def test_images_by_both_ways(house: House) -> None:
    ways: list[tuple[Mode, str]] = [("direct", "direct"), ("proxy", "proxy")]
    for mode, path in ways:
        async with house.client(mode) as client:
            answer = await client.predict(photo(1))
            assert (answer.predictions[0].label, answer.path) == (fake_label(photo(1)), path)


async def test_a_gateway_without_certificates_has_the_workers_without(house: House) -> None:
    """So each has its own while a cluster goes over to TLS, one service after the other."""
    plain = AsyncClient(house.running.gateways[1], api_key=house.running.api_key, timeout=30)
    async with plain, house.client("proxy") as encrypted:
        for number in range(10):
            assert (await plain.predict(photo(number))).worker == "worker3"
            assert (await encrypted.predict(photo(number))).worker in WORKERS


async def test_a_client_that_does_not_know_the_ca_hears_it_at_once(house: House) -> None:
    for mode in ("direct", "proxy"):
        client = AsyncClient(house.running.gateways[0], api_key=house.running.api_key, mode=mode, timeout=600)
        async with client:
            with pytest.raises(UntrustedServer, match="certificate verify failed"):
                await client.predict(photo(1))


async def test_the_internal_listeners_are_for_their_callers(house: House) -> None:
    urls = house.internal_urls
    for name, url in urls.items():
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{url}/livez", ssl=ssl.create_default_context(cafile=house.authority.ca))
        assert (await house.asked(f"{url}/readyz", "agent"))[0] == 200
        assert (await house.asked(f"{url}/metrics", "agent"))[0] == 403
        status, text = await house.asked(f"{url}/metrics", "prometheus")
        assert status == 200
        assert 'shoal_certificate_expiry_timestamp_seconds{listener="public"}' in text, name
        assert 'shoal_certificate_expiry_timestamp_seconds{listener="internal"}' in text, name
    assert (await house.asked(f"{urls['worker1']}/load", "gateway1"))[0] == 200
    assert (await house.asked(f"{urls['worker1']}/load", "worker2"))[0] == 403
    status, text = await house.asked(f"{urls['gateway1']}/targets", "prometheus")
    assert (status, text.count('"__scheme__":"https"'), text.count('"__scheme__":"http"')) == (200, 3, 1)


async def test_every_certificate_renewed_and_a_worker_drained_under_load(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given requests in both modes, on new connections too, when all is renewed and a worker leaves: none fails."""
    answered = {"direct": 0, "proxy": 0}
    stop = asyncio.Event()
    publics = [house.running.gateways[0], *(w["public_url"] for w in house.running.workers if w["worker"] in WORKERS)]
    listeners = {
        **dict.fromkeys(publics, "web"),
        **{url: name for name, url in house.internal_urls.items()},
        **dict(zip(house.admins.urls, WORKERS, strict=True)),
    }

    async def keep_asking(mode: Mode, seed: int) -> None:
        while not stop.is_set():
            async with house.client(mode) as client:
                for number in range(seed, seed + 5):
                    answer = await client.predict(photo(number))
                    assert answer.predictions[0].label == fake_label(photo(number))
                    assert answer.path in (mode, "proxy")  # where a worker is slow to answer directly
                    answered[answer.path] += 1

    async def has_more_than(before: dict[str, int]) -> bool:
        return all(answered[mode] > before[mode] + 5 for mode in answered)

    async def is_renewed(url: str) -> bool:
        return await shown_serial(url, house.context("admin")) == house.authority.serial(listeners[url])

    async with asyncio.TaskGroup() as group:
        modes: tuple[Mode, ...] = ("direct", "proxy")
        for number, mode in enumerate(modes * 2):
            group.create_task(keep_asking(mode, 100 * number))
        await eventually_async(lambda: has_more_than(dict.fromkeys(answered, 0)), within=60, what="there are answers")
        house.authority.issue(*WANTED)
        for url in listeners:
            await eventually_async(lambda url=url: is_renewed(url), within=60, what=f"{url} is renewed")
        states = await operations.nodes(house.admins)
        assert [(state["name"], state["state"]) for state in states] == [(name, "running") for name in WORKERS]
        await operations.drain(house.admins, "worker2", wait=True)
        since = dict(answered)
        await eventually_async(lambda: has_more_than(since), within=60, what="there are still answers")
        stop.set()
    assert house.running.node("worker2").state in ("down", "draining")
    output = capsys.readouterr().out
    assert output.startswith("worker2 is draining… ended after ")
    with pytest.raises(operations.NotPossible, match="does not answer"):
        await operations.drain(house.admins, "worker2", wait=True)
