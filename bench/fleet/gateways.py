"""Real gateways as processes, what they cost, and the requests that they are given."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession

from bench import measure
from shoal.processes import Child

_READY_SECONDS = 60.0
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_GONE = ("gone", "draining", "unreachable", "silent")
_OK = 200
_UPLOADS = 0.25
_AT_ONCE = 8


@dataclass(frozen=True)
class Gateway:
    """One gateway's process and its public listener."""

    child: Child
    url: str

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.child.pid)

    def memory(self) -> int:
        """Bytes (PSS)."""
        return measure.memory([self.child.pid]).pss


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process so far, to the nanosecond (``/proc/PID/task/TID/schedstat``)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@asynccontextmanager
async def gateways(
    count: int, *, name: str, discovery: Sequence[str], ticket_key: Path, log: Path, options: Sequence[str] = ()
) -> AsyncIterator[list[Gateway]]:
    """So many gateways, ready, each at an agent in turn."""
    children: list[Child] = []
    with log.open("ab") as stderr:
        try:
            for number in range(count):
                command = [sys.executable, "-m", "gateway", "--name", f"{name}-{number}", "--authentication", "off"]
                command += ["--port", "0", "--internal-port", "0", "--ticket-key", str(ticket_key), "--grace", "0"]
                command += ["--lifeline"]  # whoever kills the bench kills them
                command += ["--discovery", discovery[number % len(discovery)], "--log-level", "warning", *options]
                children.append(await Child.start(f"{name}-{number}", command, stderr=stderr))
            async with asyncio.timeout(_READY_SECONDS):
                ready = [Gateway(child, await _url(child)) for child in children]
            yield ready
        finally:
            await asyncio.gather(*(child.stop(_STOP_SECONDS) for child in children))


async def _url(child: Child) -> str:
    async for event in child.events():
        if event.get("event") == "ready":
            return str(event["public_url"])
    raise RuntimeError(f"{child.name} did not start")


@dataclass
class Load:
    """Requests at a constant rate, or as fast as they are answered if that is slower: a backlog would be measured too.
    ``outcomes`` counts them by HTTP status, or by the error of the connection."""

    session: ClientSession
    gateway: str
    rate: float
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.outcomes.total() - self.outcomes[str(_OK)]

    async def run(self, seconds: float, request: Callable[[Load], Awaitable[int]]) -> None:
        end, due = time.monotonic() + seconds, time.monotonic()
        places = asyncio.Semaphore(_AT_ONCE)

        async def one() -> None:
            async with places:
                await self._one(request)

        async with asyncio.TaskGroup() as requests:
            while due < end:
                async with places:
                    requests.create_task(one())
                due = max(due + 1 / self.rate, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def _one(self, request: Callable[[Load], Awaitable[int]]) -> None:
        began = time.monotonic()
        try:
            self.outcomes[str(await request(self))] += 1
        except (ClientError, TimeoutError) as error:
            self.outcomes[type(error).__name__] += 1
        self.seconds.append(time.monotonic() - began)


async def look_up(load: Load) -> int:
    """One lookup; after one in four a small upload with its ticket, as clients upload several images with one."""
    async with load.session.get(f"{load.gateway}/lookup?model=lite0") as response:
        if response.status != _OK:
            await response.read()
            return response.status
        grant = await response.json()
    if random.random() > _UPLOADS:
        return _OK
    headers = {"Authorization": f"Bearer {grant['ticket']}", "Content-Type": "image/jpeg"}
    async with load.session.post(grant["url"], data=b"0" * 1000, headers=headers) as response:
        await response.read()
        return response.status


async def predict(load: Load) -> int:
    """One picture of 100 KB, through the gateway."""
    headers = {"Content-Type": "image/jpeg"}
    url = f"{load.gateway}/predict?model=lite0"
    async with load.session.post(url, data=b"0" * 100_000, headers=headers) as response:
        await response.read()
        return response.status


async def told(session: ClientSession, gateway: str, incarnations: Sequence[str], *, ready: bool) -> float:
    """The instant at which a gateway had heard of all of them: that they are ready, or that they are not."""
    waiting = list(incarnations)
    while waiting:
        async with session.get(f"{gateway}/workers/{waiting[0]}") as response:
            state = (await response.json())["state"]
        if state == "ready" if ready else state in _GONE:
            waiting.pop(0)
        else:
            await asyncio.sleep(_LOOK_SECONDS)
    return time.monotonic()
