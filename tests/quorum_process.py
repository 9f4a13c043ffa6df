"""A Consul quorum that loses its leader, then everybody, then its data: run in the hub, it tells what happened."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession

from chaos.consul import Agent, Quorum, quorum
from chaos.network import Host

KEY = "/v1/kv/tests"


class Orders(msgspec.Struct):
    """The hosts whose name begins with ``consul`` are the servers, ``worker`` has a client agent."""

    binary: str
    folder: str
    hosts: list[Host]


async def _read(agent: Agent) -> str | None:
    async with ClientSession() as session, session.get(f"{agent.url}{KEY}?raw") as response:
        return await response.text() if response.status == 200 else None


async def _write(agent: Agent) -> None:
    async with ClientSession() as session, session.put(f"{agent.url}{KEY}", data="yes") as response:
        response.raise_for_status()


async def _client(running: Quorum) -> Agent:
    """The client agent, once it knows a server: it, like Shoal's services, is what the quorum is for."""
    client = next(agent for agent in running.agents if not agent.is_server)
    async with ClientSession() as session, asyncio.timeout(20):
        while True:
            try:
                async with session.get(f"{client.url}/v1/health/service/consul?passing=true") as response:
                    if response.status == 200 and await response.json():
                        return client
            except OSError:
                pass
            await asyncio.sleep(0.05)


async def _main() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    servers = [host for host in orders.hosts if host.name.startswith("consul")]
    clients = [host for host in orders.hosts if host.name == "worker"]
    told: dict[str, Any] = {}
    async with quorum(orders.binary, Path(orders.folder), servers, clients) as running:
        await _write(await _client(running))
        leader = await running.leader()
        await leader.kill()
        told["killed"] = leader.host.name
        told["seconds"] = await running.until_writable()
        told["next"] = (await running.leader()).host.name
        await running.kill_all()
        await running.start_all()
        told["kept"] = await _read(await _client(running))
        await running.kill_all()
        await running.start_all(empty=True)
        told["kept_when_empty"] = await _read(await _client(running))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(_main())
