"""``python -m bench.fleet.workers``: one process of many simulated workers, which come, leave and die as it is told.

Orders are lines of JSON on standard input: first ``Crowd``, then ``Order``. Each order is answered by an event with
the instant (monotonic, one clock for the whole machine) at which it was carried out.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

import discovery
import discovery.consul
from bench.fleet.simulated import SimulatedWorker
from discovery import Discovery
from shoal import processes, service

KEY = "lite0@1"
_CAPACITY = 512
_RECONCILE = 10.0  # not 2, as of a worker: here one process and a few agents do it for all of them
_AT_ONCE, _BETWEEN = 50, 1.0  # one process registers for all
_TOLD_SECONDS = 1.2  # a worker says that it drains before it leaves: as long as a gateway may take to hear of it


class Crowd(msgspec.Struct, frozen=True):
    """The workers of a process: ``count`` of them, registered with the agents at ``discovery`` in turn."""

    prefix: str
    discovery: list[str]
    ticket_keys: str
    count: int
    seconds_per_image: float


class Order(msgspec.Struct, frozen=True):
    """Have ``count`` more workers come, or these ``names`` leave in order or die."""

    do: Literal["add", "leave", "kill"]
    count: int = 0
    names: list[str] = []


class Process:
    """The workers by name, each with its membership."""

    def __init__(self, crowd: Crowd, agents: list[Discovery]) -> None:
        self._crowd = crowd
        self._agents = agents
        self._made = 0
        self._random = random.Random(crowd.prefix)
        self._workers: dict[str, tuple[SimulatedWorker, AsyncExitStack]] = {}

    def __repr__(self) -> str:
        return f"<Process of {len(self._workers)} simulated workers>"

    async def add(self, count: int) -> list[str]:
        """Start so many, some at a time. Returns their incarnations."""
        started: list[str] = []
        while len(started) < count:
            some = min(_AT_ONCE, count - len(started))
            started += await asyncio.gather(*(self._start() for _ in range(some)))
            await asyncio.sleep(_BETWEEN if len(started) < count else 0)
        return started

    async def carry_out(self, order: Order) -> list[str]:
        """Returns the incarnations of the workers that it was about."""
        match order.do:
            case "add":
                return await self.add(order.count)
            case "leave":
                return list(await asyncio.gather(*(self._leave(name) for name in order.names)))
            case "kill":
                workers = [self._workers[name][0] for name in order.names]
                for worker in workers:
                    worker.kill()
                return [worker.incarnation for worker in workers]

    async def _start(self) -> str:
        number, self._made = self._made, self._made + 1
        seconds = self._crowd.seconds_per_image * self._random.uniform(0.7, 1.3)
        worker = SimulatedWorker(f"{self._crowd.prefix}-{number}", uuid.uuid4().hex, KEY, seconds, _CAPACITY)
        await worker.listen(Path(self._crowd.ticket_keys))
        stack = AsyncExitStack()
        await stack.enter_async_context(self._agents[number % len(self._agents)].membership(worker.member))
        self._workers[worker.name] = worker, stack
        return worker.incarnation

    async def _leave(self, name: str) -> str:
        worker, stack = self._workers.pop(name)
        worker.draining = True
        await stack.aclose()
        asyncio.get_running_loop().call_later(_TOLD_SECONDS, worker.kill)
        return worker.incarnation


@asynccontextmanager
async def connected(urls: list[str]) -> AsyncIterator[list[Discovery]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(discovery.connect(url)) for url in urls]


async def serve() -> int:
    lines = service.lines_of_stdin()
    crowd = msgspec.convert(json.loads(await anext(lines)), Crowd)
    async with connected(crowd.discovery) as agents:
        process = Process(crowd, agents)
        began = time.monotonic()
        processes.tell_parent({"event": "added", "incarnations": await process.add(crowd.count), "at": began})
        async for line in lines:
            at = time.monotonic()
            order = msgspec.json.decode(line, type=Order)
            incarnations = await process.carry_out(order)
            processes.tell_parent({"event": order.do, "incarnations": incarnations, "at": at})
    return 0


if __name__ == "__main__":
    processes.die_with_parent()
    discovery.consul.RECONCILE = _RECONCILE
    sys.exit(service.run(serve()))
