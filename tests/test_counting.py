"""Counters are exact: over several processes, of which one is killed, they are what the clients saw."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clusters import Cluster, eventually, eventually_async, up
from tests.photos import photo
from tests.scraping import Samples, by, grown, is_cumulative, scrape, total

pytestmark = pytest.mark.cluster

REQUESTS = 1000
AT_ONCE = 24
REQUESTS_TOTAL = "shoal_requests_total"


@pytest.fixture(scope="module")
def busy() -> Iterator[Cluster]:
    """A node of two fronts and two model processes, with little room."""
    settings = ("--worker-setting", "fronts=2", "--worker-setting", "capacity=12")
    models = ("--model", "fake?seconds_per_image=0.001", "--model", "fake?version=2&seconds_per_execution=0.01")
    with up("--workers", "1", *models, *settings, log_level="info") as running:
        yield running


@dataclass
class Seen:
    """What clients were answered, by the service that answered and the path; ``lost`` were not."""

    gateway: Counter[str] = field(default_factory=Counter)
    worker: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    bytes_direct: int = 0
    bytes_proxied: int = 0


class Clients:
    """Requests of every kind to one cluster: by proxy to ``/predict``, direct to ``/``, so they can be told apart."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._gateway = cluster.gateway
        self._worker = cluster.worker(0)["public_url"]
        self._key = cluster.headers
        self._tickets: list[str] = []
        self.seen = Seen()

    async def send(self, number: int) -> None:
        version = str(1 + number % 2)
        kinds: list[tuple[bytes, dict[str, str], dict[str, str]]] = [
            (photo(number % 50), {"model": "fake", "version": version}, {}),
            (photo(number % 50), {"model": "fake", "version": version, "top_k": "2"}, {}),
            (photo(number % 50), {"model": "fake", "version": version}, {"Shoal-Timeout-Ms": "6"}),
            (b"no picture", {"model": "fake", "version": version}, {}),
            (b"", {"model": "fake", "version": version}, {}),
            (photo(number % 50), {"model": "fake", "version": version, "top_k": "0"}, {}),
            (photo(number % 50), {"model": "another"}, {}),
        ]
        body, query, headers = kinds[number % len(kinds)]
        if number % 3 == 0:
            await self._proxied(body, query, headers)
        else:
            await self._direct(body, query, headers, version)

    async def _proxied(self, body: bytes, query: dict[str, str], headers: dict[str, str]) -> None:
        code = await self._post(f"{self._gateway}/predict", body, query, {**self._key, **headers})
        self.seen.gateway[code] += 1

    async def _direct(self, body: bytes, query: dict[str, str], headers: dict[str, str], version: str) -> None:
        ticket = "forged" if len(body) % 17 == 0 else await self._ticket(version)
        try:
            self.seen.worker[await self._post(f"{self._worker}/", body, {**query, "ticket": ticket}, headers)] += 1
        except aiohttp.ClientError:
            self.seen.lost += 1

    async def _ticket(self, version: str) -> str:
        """One that serves an upload; a lookup that is refused is tried again."""
        while True:
            query = {"model": "fake", "version": version, "n": "1"}
            async with self._session.get(f"{self._gateway}/lookup", params=query, headers=self._key) as response:
                if response.status == 200:
                    return str((await response.json())["ticket"])
            await asyncio.sleep(0.01)

    async def _post(self, url: str, body: bytes, query: dict[str, str], headers: dict[str, str]) -> str:
        async with self._session.post(url, data=body, params=query, headers=headers) as response:
            await response.read()
            return response.headers.get("Shoal-Code", "ok")


async def _load(clients: Clients, requests: int, half_way: Callable[[], None]) -> None:
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            if number == requests // 2:
                half_way()
            await clients.send(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def _watch(session: aiohttp.ClientSession, url: str, fell: list[Any]) -> None:
    """Scrape again and again, and note every counter that fell."""
    before: Samples = {}
    while True:
        with suppress(aiohttp.ClientError):
            now = await scrape(session, url)
            fell += [key for key, value in before.items() if is_cumulative(key[0]) and now.get(key, 0) < value]
            before = now
        await asyncio.sleep(0.02)


def _internal(cluster: Cluster) -> str:
    return str(cluster.worker(0)["internal_url"])


def _executed(cluster: Cluster) -> int:
    """Images whose executions were completed, as the model processes logged them."""
    ids = [i for record in cluster.log(message="executed", role="model") for i in record["request_ids"]]
    return sum(request_id != "heartbeat" for request_id in ids)


def _metric_files(cluster: Cluster) -> list[str]:
    folder = Path(cluster.document["control"]).parent / "tmp"
    return sorted(file.name for file in folder.glob("shoal-metrics-*/*.db"))


async def test_counters_are_what_clients_saw_when_a_model_process_is_killed(busy: Cluster) -> None:
    fell: list[Any] = []
    victim = busy.worker(0)["pids"]["model"][0]
    executed = _executed(busy)
    async with aiohttp.ClientSession() as session:
        before = await scrape(session, _internal(busy))
        clients = Clients(busy, session)
        watching = asyncio.create_task(_watch(session, _internal(busy), fell))
        await _load(clients, REQUESTS, lambda: os.kill(victim, signal.SIGKILL))
        watching.cancel()
        worker = grown(before, await scrape(session, _internal(busy)))
    executed = _executed(busy) - executed
    seen = clients.seen
    assert seen.lost == 0
    assert sum(seen.worker.values()) + sum(seen.gateway.values()) == REQUESTS
    assert by(worker, REQUESTS_TOTAL, "code", path="/") == seen.worker
    assert {"ok", "invalid_ticket", "deadline_exceeded", "unsupported_image"} <= set(seen.worker)
    assert by(worker, REQUESTS_TOTAL, "code", path="/predict")["ok"] == seen.gateway["ok"] > 0
    assert total(worker, "shoal_images_total") == executed > 0
    assert total(worker, "shoal_batch_size_sum") == executed
    assert total(worker, "shoal_process_deaths_total", role="model") == 1
    assert fell == []
    assert [name for name in _metric_files(busy) if name.endswith(f"_{victim}.db")] == []


async def test_a_gateway_counts_what_its_clients_saw(busy: Cluster) -> None:
    async with aiohttp.ClientSession() as session:
        before = await scrape(session, busy.document["internal_urls"]["gateway1"])
        clients = Clients(busy, session)
        for number in range(0, 3 * 60, 3):
            await clients.send(number)
        found = grown(before, await scrape(session, busy.document["internal_urls"]["gateway1"]))
    assert by(found, REQUESTS_TOTAL, "code", path="/predict") == clients.seen.gateway
    assert {"ok", "unknown_model", "invalid_option"} <= set(clients.seen.gateway)


async def test_a_killed_front_takes_no_count_with_it(busy: Cluster) -> None:
    fell: list[Any] = []
    victim = busy.worker(0)["pids"]["front"][0]
    async with aiohttp.ClientSession() as session:
        before = await scrape(session, _internal(busy))
        clients = Clients(busy, session)
        watching = asyncio.create_task(_watch(session, _internal(busy), fell))
        await _load(clients, 200, lambda: os.kill(victim, signal.SIGKILL))
        await eventually_async(lambda: _has_buried_a_front(session, busy), within=10, what="the death is counted")
        watching.cancel()
        eventually(lambda: f"counter_{victim}.db" not in _metric_files(busy), within=5, what="its file is gone")
        found = grown(before, await scrape(session, _internal(busy)))
        await eventually_async(lambda: _is_alone(session, busy), within=10, what="no request of the dead is under way")
    counted, seen = by(found, REQUESTS_TOTAL, "code", path="/"), clients.seen
    assert counted["ok"] >= seen.worker["ok"] > 0
    assert sum(seen.worker.values()) <= sum(counted.values()) <= sum(seen.worker.values()) + seen.lost
    assert fell == []


async def _has_buried_a_front(session: aiohttp.ClientSession, cluster: Cluster) -> bool:
    with suppress(aiohttp.ClientError):
        return total(await scrape(session, _internal(cluster)), "shoal_process_deaths_total", role="front") == 1
    return False


async def _is_alone(session: aiohttp.ClientSession, cluster: Cluster) -> bool:
    """Whether the scrape itself is the only request under way."""
    return total(await scrape(session, _internal(cluster)), "shoal_requests_in_progress") == 1
