"""What is lost when something dies under load: nothing. Every answer is the one that belongs to its image."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from chaos.scenarios import stopped
from shoal import Outcome
from shoal.client import Mode
from tests.clusters import Cluster, eventually, eventually_async, is_running, up
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

SLOW = "fake?seconds_per_execution=0.05&max_batch_size=8"


async def _load(cluster: Cluster, mode: Mode, photos: list[bytes], during: Callable[[], None]) -> list[Outcome]:
    """All photos at once, and ``during`` called in a thread meanwhile."""
    async with cluster.async_client(mode, timeout=30) as client:
        disturbance = asyncio.create_task(asyncio.to_thread(during))
        outcomes = [outcome async for outcome in client.predict_many(photos, concurrency=len(photos))]
        await disturbance
    return outcomes


def _check(outcomes: list[Outcome], photos: list[bytes]) -> None:
    assert len(outcomes) == len(photos)
    for outcome in outcomes:
        assert outcome.answer is not None, outcome.error
        assert outcome.answer.predictions[0].label == fake_label(photos[outcome.number])
        assert outcome.answer.document["attempt"] <= 2


def _unanswered_when_it_died(cluster: Cluster, pid: int) -> set[str]:
    """The jobs that a model process had claimed and not executed, by its own log."""
    claimed = {job for record in cluster.log(message="claimed", pid=str(pid)) for job in record["jobs"]}
    return claimed - {job for record in cluster.log(message="executed", pid=str(pid)) for job in record["jobs"]}


def _claims(cluster: Cluster) -> Counter[str]:
    return Counter(job for record in cluster.log(message="claimed") for job in record["jobs"])


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_killed_model_process_loses_nothing(mode: Mode) -> None:
    with up("--workers", "1", "--model", SLOW, log_level="debug") as cluster:
        for attempt in range(5):
            victim = int(cluster.log(message="loaded")[-1]["pid"])
            photos = [photo(1000 * attempt + seed) for seed in range(200)]

            def kill(victim: int = victim) -> None:
                eventually(lambda: len(_unanswered_when_it_died(cluster, victim)) > 1, within=20, what="a claim")
                os.kill(victim, signal.SIGKILL)

            _check(await _load(cluster, mode, photos, kill), photos)
            if _unanswered_when_it_died(cluster, victim):
                break
        assert _unanswered_when_it_died(cluster, victim), "no victim ever held a job"
        assert cluster.log(message="reclaimed")
        assert max(_claims(cluster).values()) == 2


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_killed_front_loses_nothing(mode: Mode) -> None:
    with up("--workers", "2", "--model", SLOW) as cluster:
        photos = [photo(seed) for seed in range(100)]

        def kill() -> None:
            time.sleep(0.3)
            os.kill(cluster.pids("front")[0], signal.SIGKILL)

        _check(await _load(cluster, mode, photos, kill), photos)


async def test_a_killed_redis_loses_nothing() -> None:
    slower = SLOW.replace("0.05", "0.4")  # so that there are jobs in the queue when it dies, on any machine
    with up("--workers", "1", "--model", slower) as cluster:
        photos = [photo(seed) for seed in range(100)]

        def kill() -> None:
            eventually(lambda: cluster.log(message="executed"), within=20, what="an execution")
            os.kill(cluster.pids("redis")[0], signal.SIGKILL)

        _check(await _load(cluster, "proxy", photos, kill), photos)
        assert cluster.log(message="jobs submitted again: Redis was replaced")


async def test_a_killed_gateway_is_not_missed_by_the_sdk() -> None:
    with up("--workers", "2", "--gateways", "2", "--model", SLOW) as cluster:
        photos = [photo(seed) for seed in range(100)]

        def kill() -> None:
            time.sleep(0.3)
            os.kill(cluster.pids("gateway")[0], signal.SIGKILL)

        _check(await _load(cluster, "direct", photos, kill), photos)


async def _incarnations(cluster: Cluster) -> dict[str, str]:
    async with cluster.async_client() as client:
        return {worker["name"]: worker["incarnation"] for worker in (await client.status())["workers"]}


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_killed_worker_leaves_within_two_seconds(mode: Mode) -> None:
    with up("--workers", "2", "--model", SLOW) as cluster:
        photos = [photo(seed) for seed in range(100)]
        victim = (await _incarnations(cluster))["worker1"]
        killed = 0.0

        def kill() -> None:
            nonlocal killed
            time.sleep(0.2)
            os.kill(cluster.pids("worker")[0], signal.SIGKILL)
            killed = time.monotonic()

        load = asyncio.create_task(_load(cluster, mode, photos, kill))

        async def gone() -> bool:
            return killed > 0 and victim not in (await _incarnations(cluster)).values()

        await eventually_async(gone, within=10, what="out of the directory")
        assert time.monotonic() - killed < 2
        _check(await load, photos)
        pids = cluster.worker(0)["pids"]
        assert not any(is_running(pid) for role in pids for pid in pids[role])


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_draining_worker_finishes_and_takes_no_more(mode: Mode) -> None:
    """After one poll interval (0.5 s) nobody sends it anything; it exits 0 with nothing left behind."""
    with up("--workers", "2", "--model", SLOW, "--worker-setting", "grace=3") as cluster:
        victim = cluster.pids("worker")[0]
        stop = asyncio.Event()
        outcomes: list[Outcome] = []

        async def keep_asking(first: int) -> None:
            async with cluster.async_client(mode) as client:
                seed = first
                while not stop.is_set():
                    async for outcome in client.predict_many([photo(seed)]):
                        outcomes.append(outcome)
                        assert outcome.answer is not None, outcome.error
                        assert outcome.answer.predictions[0].label == fake_label(photo(seed))
                    seed += 1

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(keep_asking(number * 10_000))
            await asyncio.sleep(1)
            os.kill(victim, signal.SIGTERM)
            await asyncio.to_thread(eventually, lambda: not is_running(victim), within=20, what="the worker's end")
            await asyncio.sleep(0.5)
            stop.set()
        draining = cluster.log(message="draining", role="worker")[0]
        began = datetime.fromisoformat(draining["time"]).timestamp()
        taken = [
            datetime.fromisoformat(record["time"]).timestamp() - record["ms"] / 1000 - began
            for record in cluster.log(message="request", role="front", method="POST")
            if record["front"].startswith("worker1-")
        ]
        assert min(taken) < 0 < len(outcomes)
        late = 0.5 + 0.3 if mode == "proxy" else 0.5 + 0.3 + 1.0  # a grant in hand is still honoured
        assert max(taken) < late or mode == "direct"
        codes = Counter(record["code"] for record in cluster.log(message="request", role="front", method="POST"))
        assert set(codes) == {"ok"}
        pids = cluster.worker(0)["pids"]
        assert not any(is_running(pid) for role in pids for pid in pids[role])
        assert "worker1" not in await _incarnations(cluster)


def _fronts(cluster: Cluster) -> set[str]:
    """The process ids of the fronts that have ever logged anything, as each does at every request."""
    return {str(record["pid"]) for record in cluster.log(role="front")}


async def test_a_killed_front_does_not_take_what_others_wait_for() -> None:
    """Equal images at two fronts wait for one job; the front that submitted it is killed."""
    settings = ("fronts=2", "cache_bytes=1000000", "hang_timeout=60")
    arguments = [text for setting in settings for text in ("--worker-setting", setting)]
    with up("--workers", "1", "--model", "fake", *arguments, log_level="debug") as cluster:
        async with aiohttp.ClientSession() as session:
            params, headers = {"n": "40"}, cluster.headers
            async with session.get(f"{cluster.gateway}/lookup", params=params, headers=headers) as response:
                grant = await response.json()

            async def ask(seed: int) -> str:
                headers = {"Authorization": f"Bearer {grant['ticket']}", "Connection": "close"}
                async with session.post(grant["url"], data=photo(seed), headers=headers) as response:
                    document = await response.json()
                return str(document["predictions"][0]["label"])

            def submitted() -> list[dict[str, Any]]:
                return cluster.log(message="submitted") + cluster.log(message="joined")

            # Given a model that stands still on another image
            (model,) = cluster.pids("model")
            os.kill(model, signal.SIGSTOP)
            blocker = asyncio.create_task(ask(1))
            await asyncio.to_thread(eventually, lambda: len(submitted()) == 1, within=10, what="a job")
            # And equal images at both fronts, of which the other one stands still while the first is sent
            first, second = cluster.pids("front")
            with stopped([second]):
                tasks = [asyncio.create_task(ask(2))]
                await asyncio.to_thread(eventually, lambda: len(submitted()) == 2, within=10, what="the leader")
            with stopped([first]):
                tasks += [asyncio.create_task(ask(2)) for _ in range(10)]
                await asyncio.to_thread(eventually, lambda: len(submitted()) == 12, within=10, what="all who wait")
            leader = cluster.log(message="submitted")[1]
            others = [record for record in cluster.log(message="joined") if record["pid"] != leader["pid"]]
            assert len(others) == 10
            # When the front that submitted the job is killed, and buried: another one is there in its place
            before = _fronts(cluster)
            os.kill(int(leader["pid"]), signal.SIGKILL)

            async def replaced() -> bool:
                url = f"{cluster.worker(0)['internal_url']}/livez"
                async with session.get(url, headers={"Connection": "close"}) as response:
                    return response.status == 200 and _fronts(cluster) > before

            await eventually_async(replaced, within=20, what="another front")
            os.kill(model, signal.SIGCONT)
            answers = await asyncio.gather(blocker, *tasks, return_exceptions=True)
        # Then who waited at the other one is answered, by one execution
        right = [answer for answer in answers[1:] if answer == fake_label(photo(2))]
        assert len(right) == len(others)
        executed = [job for record in cluster.log(message="executed") for job in record["jobs"]]
        assert executed.count(leader["job"]) == 1
