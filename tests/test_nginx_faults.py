"""What is lost behind nginx when something dies under load, or it reloads: nothing, of bodies that it holds whole."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import aiohttp
import pytest

from chaos.scenarios import stopped
from shoal import AsyncClient
from tests.clusters import Cluster, eventually_async, up
from tests.nginx_server import Nginx, following
from tests.photos import fake_label, photo

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SLOW = "fake?seconds_per_execution=0.03&max_batch_size=4"
CALLERS = 8
PHOTOS = [photo(seed) for seed in range(40)]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Cluster]:
    with up("--workers", "3", "--gateways", "2", "--model", SLOW) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(fleet: Cluster) -> Iterator[Nginx]:
    with following("--discovery", str(fleet.document["discovery"])) as running:
        yield running


@dataclass
class Load:
    """Callers that never try again, and what became of each of their requests."""

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(
        self, session: aiohttp.ClientSession, url: str, headers: dict[str, str], numbers: Iterator[int]
    ) -> None:
        while True:
            image = PHOTOS[next(numbers) % len(PHOTOS)]
            try:
                async with session.post(f"{url}/predict", data=image, headers=headers) as response:
                    document = await response.json()
                    if response.status != 200:
                        self.failures[f"{response.status} {document}"] += 1
                    elif document["predictions"][0]["label"] != fake_label(image):
                        self.failures["another image's answer"] += 1
            except aiohttp.ClientError as error:
                self.failures[repr(error)] += 1
            self.answered += 1
            self.changed.set()
            self.changed.clear()

    async def more(self, requests: int) -> None:
        """Wait until so many more have ended."""
        wanted = self.answered + requests
        async with asyncio.timeout(60):
            while self.answered < wanted:
                await self.changed.wait()


@asynccontextmanager
async def flowing(cluster: Cluster, nginx: Nginx, *, kept: bool = True) -> AsyncIterator[Load]:
    """Callers with connections that they keep, or with one for each request."""
    load, numbers = Load(), count()
    connector = aiohttp.TCPConnector(force_close=not kept)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        tasks = [asyncio.create_task(load.call(session, nginx.url, cluster.headers, numbers)) for _ in range(CALLERS)]
        try:
            await load.more(40)
            yield load
            await load.more(40)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def reloaded(nginx: Nginx) -> None:
    """Reload, and wait until every process of before has ended."""
    before = set(nginx.children())

    async def ended() -> bool:
        return not before & set(nginx.children())

    os.kill(nginx.pid, signal.SIGHUP)
    await eventually_async(ended, within=30, what="new processes")


async def test_reloads_lose_nothing(fleet: Cluster, nginx: Nginx) -> None:
    async with flowing(fleet, nginx, kept=False) as load:
        for _ in range(3):
            await reloaded(nginx)
            await load.more(40)
    assert load.failures == {}


async def test_reloads_lose_nothing_with_the_sdk(fleet: Cluster, nginx: Nginx) -> None:
    """nginx closes idle connections then, and a request may be on its way on one: the SDK sends it again."""
    async with AsyncClient(nginx.url, api_key=fleet.api_key, mode="proxy", timeout=60) as client:
        outcomes = []
        async for outcome in client.predict_many(PHOTOS * 4, concurrency=CALLERS):
            outcomes.append(outcome)
            if len(outcomes) % 40 == 0:
                await reloaded(nginx)
    assert [outcome.error for outcome in outcomes if outcome.error is not None] == []
    assert len(outcomes) == len(PHOTOS) * 4


async def test_a_killed_worker_loses_nothing(fleet: Cluster, nginx: Nginx) -> None:
    worker = fleet.worker(0)
    async with flowing(fleet, nginx) as load:
        os.kill(worker["pids"]["worker"][0], signal.SIGKILL)
        await load.more(120)
    assert load.failures == {}
    statuses = Counter(line["upstream_status"] for line in nginx.accesses())
    assert any("502" in status and status.endswith("200") for status in statuses), statuses  # somebody noticed


async def test_a_paused_worker_loses_nothing(fleet: Cluster, nginx: Nginx) -> None:
    """nginx hears nothing of its silence, so what is there goes elsewhere after some seconds."""
    pids = [pid for numbers in fleet.worker(1)["pids"].values() for pid in numbers]
    before = len(nginx.accesses())

    async def given_up() -> bool:
        return any("504" in line["upstream_status"] and line["status"] == "200" for line in nginx.accesses()[before:])

    async with flowing(fleet, nginx) as load:
        with stopped(pids):
            await eventually_async(given_up, within=60, what="a request that was sent elsewhere")
    assert load.failures == {}


async def test_a_killed_gateway_loses_nothing(fleet: Cluster, nginx: Nginx) -> None:
    async with flowing(fleet, nginx) as load:
        os.kill(fleet.pids("gateway")[0], signal.SIGKILL)
        await load.more(120)
    assert load.failures == {}


async def test_a_killed_nginx_loses_nothing_with_two_of_them_and_the_sdk(fleet: Cluster, nginx: Nginx) -> None:
    """A connection that breaks is a client's to use again: the SDK knows both names."""
    with following("--discovery", str(fleet.document["discovery"])) as other:
        both = f"{other.url},{nginx.url}"
        async with AsyncClient(both, api_key=fleet.api_key, mode="proxy", timeout=60) as client:
            outcomes = []
            async for outcome in client.predict_many(PHOTOS * 4, concurrency=CALLERS):
                outcomes.append(outcome)
                if len(outcomes) == 30:
                    other.kill()
    assert [outcome.error for outcome in outcomes if outcome.error is not None] == []
    assert len(outcomes) == len(PHOTOS) * 4
