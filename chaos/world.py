"""The cluster that faults happen to: gateways, workers, Consul and a client, each in a host of its own, under load."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos.consul import Quorum, quorum
from chaos.journal import Journal
from chaos.load import Answered, Orders
from chaos.network import Network, Subnet
from shoal import AsyncClient, launcher, service
from shoal.errors import ShoalError
from shoal.launcher import Node, Plan, Running
from shoal.processes import Child

WORKERS = ("worker1", "worker2", "worker3")
GATEWAYS = ("gateway1", "gateway2")
SERVERS = ("consul1", "consul2", "consul3")
WITHOUT_PUBLIC_ADDRESS = "worker3"

_BOTH: tuple[Subnet, ...] = ("internal", "public")
HOSTS: dict[str, tuple[Subnet, ...]] = (
    dict.fromkeys(GATEWAYS, _BOTH)
    | dict.fromkeys(WORKERS, _BOTH)
    | {WITHOUT_PUBLIC_ADDRESS: ("internal",)}
    | dict.fromkeys(SERVERS, ("internal",))
    | {"client": ("public",)}
)

_VIEW_EVERY = 0.1
_READ_EVERY = 0.02


class DidNotHappen(Exception):
    """Something that a scenario waited for did not happen in time."""


@dataclass
class World:
    """Everything a scenario touches. Construct with ``world``."""

    network: Network
    consul: Quorum
    running: Running
    journal: Journal
    load: Child
    clients: dict[str, AsyncClient]
    ends: list[Answered] = field(default_factory=list)
    views: dict[str, dict[str, str]] = field(default_factory=dict)
    oldest: float = 0.0

    def __repr__(self) -> str:
        return f"<World {self.running!r}, {len(self.ends)} requests ended>"

    def order(self, **changes: Any) -> None:
        """Change the load: ``rate``, ``bulk_rate``, ``closed``, ``timeout`` or ``modes``."""
        self.load.send(changes)

    def take_ends(self) -> list[Answered]:
        """The requests that ended since the last time."""
        ends, self.ends = self.ends, []
        return ends

    async def until(self, condition: Callable[[], bool], what: str, within: float = 60.0) -> float:
        """Wait for ``condition``. Returns the seconds that it took; raises ``DidNotHappen``."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > within:
                raise DidNotHappen(f"not within {within:g} s: {what}; {self.views}")
            await asyncio.sleep(_READ_EVERY)
        return time.monotonic() - began

    def states(self, name: str) -> list[str]:
        """How each gateway that answers sees a worker."""
        return [view.get(name, "gone") for view in self.views.values()]

    def all_ready(self) -> bool:
        """Whether every node runs and every gateway sees every worker ready."""
        return all(instance.state == "ready" for instance in self.running.instances) and all(
            len(self.views) == len(GATEWAYS) and set(self.states(name)) == {"ready"} for name in WORKERS
        )

    async def settle(self) -> None:
        """Wait until everybody is ready again and every request that began before is answered."""
        await self.until(self.all_ready, "everybody ready", within=90)
        now = time.monotonic()
        await self.until(lambda: self.oldest > now, "an end of every request", within=90)

    async def follow_load(self) -> None:
        async for event in self.load.events():
            if event["event"] == "answered":
                self.oldest = event["oldest"]
                self.ends += msgspec.convert(event["ends"], list[Answered])
        raise DidNotHappen("the load has ended")

    async def follow_logs(self) -> None:
        while True:
            self.journal.read()
            await asyncio.sleep(_READ_EVERY)

    async def follow_view(self, name: str, client: AsyncClient) -> None:
        while True:
            try:
                workers = (await client.status())["workers"]
                self.views[name] = {worker["name"]: _state(worker) for worker in workers}
            except (ShoalError, TimeoutError):
                self.views.pop(name, None)
            await asyncio.sleep(_VIEW_EVERY)


def _state(worker: dict[str, Any]) -> str:
    statuses = {load["status"] for load in worker["models"].values()} - {"ready"}
    return str(worker["state"]) if worker["state"] != "ready" or not statuses else statuses.pop()


@asynccontextmanager
async def world(built: Network, folder: Path, *, consul: str, model: str) -> AsyncIterator[World]:
    """Start everything and a load of nothing, and wait until all are ready."""
    hosts = built.hosts
    async with AsyncExitStack() as stack:
        servers, clients = [hosts[n] for n in SERVERS], [hosts[n] for n in (*GATEWAYS, *WORKERS)]
        agents = await stack.enter_async_context(quorum(consul, folder / "consul", servers, clients))
        plan = Plan(nodes=tuple(_nodes(built)), models=(model,), log_level="debug", log_folder=folder / "logs")
        running = await stack.enter_async_context(launcher.cluster(plan))
        orders = Orders(running.gateways, running.api_key)
        command = [*hosts["client"].prefix, sys.executable, "-m", "chaos.load"]
        load = await Child.start("load", command, orders=msgspec.to_builtins(orders))
        stack.push_async_callback(load.stop, 5)
        views = {
            name: await stack.enter_async_context(AsyncClient(url, api_key=running.api_key, timeout=2))
            for name, url in zip(GATEWAYS, running.gateways, strict=True)
        }
        journal = Journal(folder / "logs")
        stack.callback(journal.close)
        made = World(built, agents, running, journal, load, views)
        followers = [made.follow_view(name, client) for name, client in views.items()]
        async with service.background(made.follow_load(), made.follow_logs(), *followers):
            with suppress(DidNotHappen):
                await made.until(made.all_ready, "everybody ready at first")
            yield made


def _nodes(built: Network) -> Iterator[Node]:
    common = {"discovery": "consul://127.0.0.1:8500"}
    for name in GATEWAYS:
        host = built.hosts[name]
        listeners = {"host": host.address("public"), "internal_host": host.address("internal")}
        yield Node("gateway", name, common | listeners, host.prefix)
    for name in WORKERS:
        host = built.hosts[name]
        internal = {"internal_host": host.address("internal")}
        public = {"host": host.address("public")} if "public" in host.subnets else {"public": False}
        yield Node("worker", name, common | internal | public, host.prefix)
