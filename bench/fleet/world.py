"""One fleet of the simulation: simulated workers in a process of their own, and real gateways that follow them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession

from bench.fleet.gateways import Gateway, gateways, told
from bench.fleet.workers import Crowd, Order
from shoal.processes import Child

_SECONDS_PER_IMAGE = 0.01
_READY_SECONDS = 90.0


@dataclass
class Fleet:
    """Simulated workers and their gateways. ``incarnations`` are of the workers that it began with."""

    name: str
    crowd: Child
    events: AsyncIterator[dict[str, Any]]
    gateways: Sequence[Gateway]
    session: ClientSession
    count: int
    gone: int = 0

    def __repr__(self) -> str:
        return f"<Fleet {self.name}: {self.count} workers, {len(self.gateways)} gateways>"

    async def tell(self, order: Order) -> tuple[list[str], float]:
        """Have it carried out. Returns the incarnations that it was about, and the instant."""
        self.crowd.send(msgspec.to_builtins(order))
        event = await anext(self.events)
        return event["incarnations"], float(event["at"])

    def next_names(self, count: int) -> list[str]:
        """The workers that are to go next."""
        first, self.gone = self.gone, self.gone + count
        return [f"{self.name}-{number}" for number in range(first, self.gone)]


@asynccontextmanager
async def fleet(
    name: str,
    agents: Sequence[str],
    workers: int,
    count: int,
    *,
    key: Path,
    keys: Path,
    folder: Path,
    session: ClientSession,
    options: Sequence[str] = (),
    check_interval: float = 1.0,
) -> AsyncIterator[Fleet]:
    """Start it at the Consul ``agents`` (URLs); entering waits until every gateway has polled every worker."""
    urls = [f"{agent}?service_prefix={name}&check_interval={check_interval:g}" for agent in agents]
    crowd = Crowd(name, urls, str(keys), workers, _SECONDS_PER_IMAGE)
    with (folder / f"{name}.log").open("ab") as log:
        child = await Child.start(name, [sys.executable, "-m", "bench.fleet.workers"], stderr=log)
    try:
        child.send(msgspec.to_builtins(crowd))
        events = child.events()
        event = await anext(events)
        async with gateways(
            count, name=name, discovery=urls, ticket_key=key, log=folder / f"{name}.log", options=options
        ) as running:
            async with asyncio.timeout(_READY_SECONDS):
                for gateway in running:
                    await told(session, gateway.url, event["incarnations"], ready=True)
            yield Fleet(name, child, events, running, session, workers)
    finally:
        await child.stop(0.5)
