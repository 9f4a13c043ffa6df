"""A current nginx follows the gateways by Consul's DNS: nobody reloads it, and it keeps them while Consul is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

import discovery
from nginx.__main__ import main
from tests.consul_server import ConsulServer
from tests.discovery_tools import consul_binary
from tests.nginx_server import Nginx, current_nginx, nginx_binary
from tests.test_nginx_following import gateway, said, started, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with ConsulServer(consul_binary(), tmp_path_factory.mktemp("consul"), dns=True) as server:
        yield server


@pytest.fixture
def flags(consul: ConsulServer) -> tuple[str, ...]:
    return "--nginx", current_nginx(), "--consul-dns", f"127.0.0.1:{consul.dns_port}"


async def test_gateways_come_and_go_without_a_reload(consul: ConsulServer, flags: tuple[str, ...]) -> None:
    """Five of them are more than fit into an answer of the DNS over UDP."""
    names = {"one", "two", "three", "four", "five"}
    async with discovery.connect(consul.url) as backend, started(consul.url, *flags) as nginx:
        async with gateway(backend, "one"):
            await until(nginx, {"one"})
            async with AsyncExitStack() as others:
                for name in names - {"one"}:
                    await others.enter_async_context(gateway(backend, name))
                await until(nginx, names)
            await until(nginx, {"one"})
        async with gateway(backend, "six"):
            await until(nginx, {"six"})
        assert await said(nginx, "directory", 4)  # the follower sees them too, and it changes nothing
        assert nginx.said("nginx reloaded") == 1


async def test_a_gateway_that_leaves_costs_nothing(consul: ConsulServer, flags: tuple[str, ...]) -> None:
    """Until nginx asks the DNS again, it turns to another gateway."""
    async with discovery.connect(consul.url) as backend, gateway(backend, "one"), AsyncExitStack() as stack:
        nginx = await stack.enter_async_context(started(consul.url, *flags))
        await until(nginx, {"one"})
        async with gateway(backend, "two"):
            await until(nginx, {"one", "two"})
            asking = asyncio.create_task(_asked(nginx, seconds=4))
            await asyncio.sleep(1)
        assert await asking == {200}


async def test_consul_that_is_away_takes_no_gateway_away(consul: ConsulServer, flags: tuple[str, ...]) -> None:
    async with (
        discovery.connect(consul.url) as backend,
        gateway(backend, "one"),
        started(consul.url, *flags) as nginx,
    ):
        await until(nginx, {"one"})
        consul.kill()
        assert await _asked(nginx, seconds=6) == {200}
        consul.start()  # empty
        await until(nginx, {"one"})


def test_an_older_nginx_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--discovery", "consul://127.0.0.1:1", "--consul-dns", "127.0.0.1:2", "--nginx", nginx_binary()
    assert main(["--print", *flags]) == 1
    assert "consul_dns needs nginx 1.27.3 or later, and this is 1." in capsys.readouterr().err


async def _asked(nginx: Nginx, *, seconds: float) -> set[int]:
    """The statuses of some requests, one after the other."""
    statuses = set()
    async with aiohttp.ClientSession() as session:
        for _ in range(round(seconds / 0.02)):
            async with session.get(f"{nginx.url}/livez") as response:
                statuses.add(response.status)
            await asyncio.sleep(0.02)
    return statuses
