"""What lives and does not work is found and replaced, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.scenarios import stopped
from shoal import AsyncClient, Outcome, errors
from shoal.client import Mode
from tests.clusters import Cluster, eventually, eventually_async, is_running, up
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

SLOW = "fake?seconds_per_execution=0.05&max_batch_size=8"
QUICK = ("--worker-setting", "hang_timeout=2")


async def _ask(client: AsyncClient, photos: list[bytes]) -> None:
    """All at once, and each gets its own answer."""
    outcomes = [outcome async for outcome in client.predict_many(photos, concurrency=len(photos))]
    assert len(outcomes) == len(photos)
    for outcome in outcomes:
        _check(outcome, photos)


def _check(outcome: Outcome, photos: list[bytes]) -> None:
    assert outcome.answer is not None, outcome.error
    assert outcome.answer.predictions[0].label == fake_label(photos[outcome.number])


@pytest.mark.parametrize("role", ["model", "front", "redis"])
@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_stopped_process_is_replaced(role: str, mode: Mode) -> None:
    with up("--workers", "1", "--model", SLOW, *QUICK) as cluster:
        (victim,) = cluster.pids(role)
        async with cluster.async_client(mode, timeout=30) as client:
            asking = asyncio.create_task(_ask(client, [photo(seed) for seed in range(60)]))
            await asyncio.sleep(0.15)
            os.kill(victim, signal.SIGSTOP)
            await eventually_async(lambda: _true(not is_running(victim)), within=10, what="its end")
            await asking
        assert [record["child_pid"] for record in cluster.log(message="hung, so killed")] == [victim]


async def _true(value: bool) -> bool:
    return value


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_stopped_worker_is_left_out_and_comes_back(mode: Mode) -> None:
    with up("--workers", "2", "--model", SLOW, *QUICK) as cluster:
        pids = [pid for numbers in cluster.worker(0)["pids"].values() for pid in numbers]
        async with cluster.async_client(mode, timeout=20) as client:

            async def state() -> str:
                return str(next(w["state"] for w in (await client.status())["workers"] if w["name"] == "worker1"))

            async def is_in(wanted: str) -> bool:
                return await state() == wanted

            asking = asyncio.create_task(_ask(client, [photo(seed) for seed in range(60)]))
            await asyncio.sleep(0.15)
            with stopped(pids):
                assert await eventually_async(lambda: is_in("silent"), within=5, what="its leaving") < 3
                await asking
                await _ask(client, [photo(seed) for seed in range(100, 160)])
            await eventually_async(lambda: is_in("ready"), within=5, what="its return")
            await _ask(client, [photo(seed) for seed in range(200, 260)])
        assert all(is_running(pid) for pid in pids)  # a pause of the whole node is nobody's fault


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_a_stopped_gateway_is_passed_over(mode: Mode) -> None:
    with up("--workers", "1", "--gateways", "2", "--model", SLOW) as cluster:
        async with cluster.async_client(mode, timeout=20) as client:
            asking = asyncio.create_task(_ask(client, [photo(seed) for seed in range(60)]))
            await asyncio.sleep(0.15)
            with stopped([cluster.pids("gateway")[0]]):
                await asking
                await _ask(client, [photo(seed) for seed in range(100, 160)])


async def test_a_paused_gateway_does_not_send_what_is_under_way_again() -> None:
    with up(
        "--workers", "1", "--model", "fake?seconds_per_execution=1.5&max_batch_size=8", log_level="debug"
    ) as cluster:
        async with cluster.async_client("proxy", timeout=20) as client:
            asking = asyncio.create_task(_ask(client, [photo(seed) for seed in range(6)]))
            await asyncio.sleep(0.3)
            with stopped(cluster.pids("gateway")):
                await asyncio.sleep(3)
            await asking
        assert len(set(_executed(cluster))) == len(_executed(cluster))
        assert not cluster.log(message="connection to worker broke")


def test_a_model_process_that_hangs_while_it_starts_is_replaced() -> None:
    setting = ("--worker-setting", "load_timeout=3")
    with up("--workers", "1", "--model", "fake", *setting) as cluster, cluster.client() as client:
        (first,) = cluster.pids("model")
        os.kill(first, signal.SIGKILL)
        second = 0

        def started() -> bool:
            nonlocal second
            second = next((pid for pid in _children("worker.model_process", cluster) if pid != first), 0)
            return second > 0

        eventually(started, within=5, what="another one")
        os.kill(second, signal.SIGSTOP)
        eventually(lambda: not is_running(second), within=15, what="its end")
        client.predict(photo(1), timeout=20)


def _children(module: str, cluster: Cluster) -> list[int]:
    """The processes that run ``module`` for the first worker."""
    (parent,) = cluster.worker(0)["pids"]["worker"]
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    return [int(pid) for pid in children if module in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]


def test_an_image_that_hangs_the_model_is_given_up_and_quarantined() -> None:
    bad = photo(7)
    good = [photo(seed) for seed in range(100, 110)]
    model = f"fake?hang_on={fake_label(bad)}&max_batch_size=4"
    with up("--workers", "1", "--model", model, *QUICK) as cluster, cluster.client(timeout=60) as client:
        with pytest.raises(errors.ModelCrashed):
            client.predict(bad)
        with pytest.raises(errors.Quarantined):
            client.predict(bad)
        with cluster.client("proxy") as proxied, pytest.raises(errors.Quarantined):
            proxied.predict(bad)
        for outcome in client.predict_many(good):
            _check(outcome, good)

        # And an operator sees it, and may let it in again
        digest = hashlib.sha256(bad).hexdigest()
        assert digest in _shoal(cluster, "quarantine")
        (entry,) = json.loads(_shoal(cluster, "quarantine", "--json"))
        assert (entry["worker"], entry["model"], entry["digest"]) == ("worker1", "fake@1", digest)
        assert "worker1 takes" in _shoal(cluster, "quarantine", "--release", digest)
        assert _shoal(cluster, "quarantine") == "no image is in quarantine\n"
        assert "is not in quarantine" in _shoal(cluster, "quarantine", "--release", digest, code=1)
        with pytest.raises(errors.ModelCrashed):
            client.predict(bad)


def _shoal(cluster: Cluster, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "shoal.cli", *arguments, "--control", str(cluster.document["control"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_an_idle_model_is_sent_heartbeats_and_they_are_nobodys_images() -> None:
    with up("--workers", "1", "--model", "fake", log_level="debug") as cluster, cluster.client() as client:

        def load() -> dict[str, float]:
            loads: dict[str, float] = client.status()["workers"][0]["models"]["fake@1"]
            return loads

        heartbeats = []
        until = time.monotonic() + 7
        while time.monotonic() < until:
            heartbeats.append(load()["idle"])
            assert load()["queue_depth"] <= 1
            time.sleep(0.2)
        assert 0 < max(heartbeats) < 5
        executed = cluster.log(message="executed", request_ids=["heartbeat"])
        assert len(executed) >= 2
        client.predict(photo(1))


@pytest.mark.parametrize("mode", ["direct", "proxy"])
async def test_work_stops_when_nobody_waits(mode: Mode) -> None:
    """Of 100 queued images, 90 of whose callers leave, no more than one batch beyond the 10 is executed."""
    with up("--workers", "1", "--model", "fake?seconds_per_execution=0.3&max_batch_size=4") as cluster:
        async with cluster.async_client(mode) as client:
            calls = [asyncio.create_task(client.predict(photo(seed), timeout=60)) for seed in range(100)]

            async def queued() -> bool:
                loads = (await client.status())["workers"][0]["models"]["fake@1"]
                return int(loads["queue_depth"]) > 80

            await eventually_async(queued, within=10, what="100 jobs")
            for call in calls[10:]:
                call.cancel()
            cancelled_at = len(_executed(cluster))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(answer, BaseException) for answer in answers) >= 90 - cancelled_at

            async def idle() -> bool:
                return not (await client.status())["workers"][0]["models"]["fake@1"]["queue_depth"]

            await eventually_async(idle, within=20, what="an empty queue")
        assert len(_executed(cluster)) <= 10 + 4 + cancelled_at


def _executed(cluster: Cluster) -> list[str]:
    return [job for record in cluster.log(message="executed") for job in record["jobs"]]


async def test_a_dead_front_s_jobs_are_not_executed_beside_those_that_were_sent_again() -> None:
    options = ("--workers", "1", "--model", "fake", "--worker-setting", "hang_timeout=60")
    photos = [photo(seed) for seed in range(8)]
    with up(*options, log_level="debug") as cluster:

        async def submitted(count: int) -> bool:
            return len(cluster.log(message="submitted")) == count

        async with cluster.async_client("proxy") as client:
            (front,) = cluster.pids("front")
            with stopped(cluster.pids("model")):
                asking = asyncio.create_task(_ask(client, photos))
                await eventually_async(lambda: submitted(8), within=10, what="8 jobs")
                os.kill(front, signal.SIGKILL)
                await eventually_async(lambda: submitted(16), within=20, what="all of them once more")
            await asking
        images = [name for record in cluster.log(message="executed") for name in record["request_ids"]]
        assert sum(name != "heartbeat" for name in images) <= 8 + 1  # one was in the hands of the model process
