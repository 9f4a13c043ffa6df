"""Change models under load, and write down what it cost: ``python -m bench.lifecycle [--output FILE]``.

A cluster of two workers and two gateways on this machine, an open loop of pictures at a constant rate, half direct and
half by proxy. Version 2 replaces version 1, a broken version 3 replaces nothing, one command goes back, and then
versions come and go a hundred times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import discovery
from bench import measure, photos
from bench.versions import DIGITS as MODEL
from shoal import AsyncClient
from shoal.client import Mode
from shoal.errors import ShoalError
from shoal.launcher import Plan, Running, cluster
from shoal.publication import Publication, Published
from worker.models.digests import digest_of
from worker.repository import editing, publishing

_MODES: tuple[Mode, ...] = ("direct", "proxy")
_PICTURES = 8
_GRACE = 1.0  # a worker's, so that a hundred cycles do not take an hour
_PATIENCE = 60.0
_PHASE = 15.0
_IN_A_ROW = 10
_SETTLED = 10  # cycles until caches and pools have their size


@dataclass
class Load:
    """Pictures at a constant rate, and what became of each."""

    rate: float
    clients: list[AsyncClient]
    pictures: list[bytes]
    answered: list[tuple[float, float, str]] = field(default_factory=list)  # began, seconds, version
    failures: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as calls:
            arriving = calls.create_task(self._arrive(calls))
            try:
                yield
            finally:
                arriving.cancel()

    async def _arrive(self, calls: asyncio.TaskGroup) -> None:
        due, number = time.monotonic(), 0
        while True:
            calls.create_task(self._call(number))
            number += 1
            due += 1 / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _call(self, number: int) -> None:
        began = time.monotonic()
        picture = photos.distinct(self.pictures[number % len(self.pictures)], number)
        try:
            answer = await self.clients[number % len(self.clients)].predict(picture, model=MODEL)
        except ShoalError as error:
            self.failures[error.code] += 1
        else:
            self.answered.append((began, time.monotonic() - began, answer.version))

    def between(self, since: float, until: float) -> dict[str, Any]:
        """The requests that began in a span of time: how many, their latencies in seconds, and by which version."""
        chosen = [(seconds, version) for began, seconds, version in self.answered if since <= began < until]
        seconds = sorted(seconds for seconds, _ in chosen)
        return {
            "requests": len(chosen),
            "p50": round(statistics.median(seconds), 4),
            "p99": round(seconds[int(len(seconds) * 0.99)], 4),
            "versions": dict(Counter(version for _, version in chosen)),
        }


@dataclass(frozen=True)
class World:
    """A running cluster under load, and its operator."""

    running: Running
    repository: Path
    load: Load

    async def publish(self, folder: str, version: str, *, keep: int) -> None:
        """Publish a prepared folder, as the last step of ``shoal models add`` does."""
        source = self.repository / MODEL / folder
        published = Published(source=source.as_uri(), digest=digest_of(source))
        async with discovery.connect(self.running.discovery) as backend:
            await publishing.change(
                backend,
                MODEL,
                lambda before: editing.add(before or Publication(MODEL), version, published, keep=keep),
            )

    async def command(self, *arguments: str) -> float:
        """Run ``shoal models ARGUMENTS``. Returns the seconds that it took. Raises ``RuntimeError``."""
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shoal.cli", "models", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "SHOAL_DISCOVERY": self.running.discovery},
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"shoal models {' '.join(arguments)}: {output.decode()}")
        return time.monotonic() - began

    async def loads(self) -> list[dict[str, Any]]:
        """The models of each worker, as a gateway knows them."""
        return [worker["models"] for worker in (await self.load.clients[0].status())["workers"]]

    async def until(self, **statuses: str) -> float:
        """Wait until every worker has exactly these versions (``v1="ready"``). Returns the seconds."""
        wanted = {f"{MODEL}@{version.removeprefix('v')}": status for version, status in statuses.items()}
        began = time.monotonic()
        while True:
            found = [{key: load["status"] for key, load in models.items()} for models in await self.loads()]
            if all(models == wanted for models in found):
                return time.monotonic() - began
            if time.monotonic() - began > _PATIENCE:
                raise RuntimeError(f"not {wanted}: {found}")
            await asyncio.sleep(0.05)

    async def followed(self, version: str) -> float:
        """Seconds until each gateway answers by ``version`` alone, several times in a row."""
        began = time.monotonic()
        for gateway in self.running.gateways:
            async with AsyncClient(gateway, api_key=self.running.api_key, mode="proxy") as client:
                in_a_row = 0
                while in_a_row < _IN_A_ROW:
                    answer = await client.predict(self.load.pictures[0], model=MODEL)
                    in_a_row = in_a_row + 1 if answer.version == version else 0
        return time.monotonic() - began

    def memory(self) -> int:
        """Bytes of the workers and all their processes (PSS)."""
        pids = [pid for worker in self.running.workers for pid in worker["pids"]["worker"]]
        return measure.memory(pids).pss


@asynccontextmanager
async def world(rate: float) -> AsyncIterator[World]:
    """A cluster that serves version 1, under load."""
    plan = Plan(workers=2, gateways=2, models=(), worker_settings={"grace": _GRACE})
    async with AsyncExitStack() as stack:
        repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-lifecycle-")))
        making = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.versions", "digits", str(repository))
        if await making.wait():
            raise RuntimeError("the models could not be made")
        running = await stack.enter_async_context(cluster(plan))
        gateways = ",".join(running.gateways)
        clients = [
            await stack.enter_async_context(AsyncClient(gateways, api_key=running.api_key, mode=mode))
            for mode in _MODES
        ]
        here = World(running, repository, Load(rate, clients, photos.make(_PICTURES)))
        await here.publish("1", "1", keep=0)
        await here.until(v1="ready")
        await stack.enter_async_context(here.load.flowing())
        await asyncio.sleep(5)
        yield here


async def swap(here: World) -> dict[str, Any]:
    """Version 2 beside version 1, which stays for a way back; a broken version 3; and back to 1."""
    began = time.monotonic()
    await asyncio.sleep(_PHASE)
    published = time.monotonic()
    await here.publish("2", "2", keep=1)
    took = await here.until(v1="ready", v2="ready")
    swapped = time.monotonic() + 1  # both gateways have heard of it by then
    await asyncio.sleep(_PHASE)
    await here.publish("3", "3", keep=2)
    await here.until(v1="ready", v2="ready", v3="failed")
    broken = time.monotonic()
    await asyncio.sleep(5)
    reasons = [models[f"{MODEL}@3"]["reason"] for models in await here.loads()]
    after_broken = here.load.between(broken, time.monotonic())
    await here.command("remove", f"{MODEL}@3")
    command = await here.command("rollback", MODEL)
    followed = await here.followed("1")
    await here.command("traffic", MODEL, "latest")
    return {
        "before": here.load.between(began, published),
        "during": here.load.between(published, swapped),
        "after": here.load.between(swapped, swapped + _PHASE - 2),
        "seconds_until_ready": round(took, 2),
        "broken": {"reasons": reasons, "requests_meanwhile": after_broken},
        "rollback": {"seconds_of_the_command": round(command, 2), "seconds_until_followed": round(followed, 2)},
    }


async def cycles(here: World, count: int) -> dict[str, Any]:
    """A version comes and the one before it goes, ``count`` times: what memory is left with the node."""
    memory = []
    for number in range(_SETTLED + count + 1):
        version = str(10 + number)
        await here.publish("12"[number % 2], version, keep=0)
        await here.until(**{f"v{version}": "ready"})
        if number == _SETTLED or number > _SETTLED + count - 5 or number % 10 == 0:
            await asyncio.sleep(2)
            memory.append((number - _SETTLED, here.memory()))
    start = next(size for number, size in memory if number == 0)
    end = memory[-1][1]
    return {
        "cycles": count,
        "memory_start_mib": round(start / 2**20, 1),
        "memory_end_mib": round(end / 2**20, 1),
        "growth": round(end / start - 1, 4),
        "memory_mib": {number: round(size / 2**20, 1) for number, size in memory},
    }


async def measured(rate: float, count: int) -> dict[str, Any]:
    async with world(rate) as here:
        result = {"rate": rate, "swap": await swap(here), "cycles": await cycles(here, count) if count else None}
        load = here.load
    return result | {"answered": len(load.answered), "failed": dict(load.failures)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lifecycle", description=__doc__)
    parser.add_argument("--rate", type=float, default=40.0, help="pictures a second")
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = asyncio.run(measured(arguments.rate, arguments.cycles))
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
