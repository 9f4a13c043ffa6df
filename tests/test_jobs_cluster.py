"""What a 202 survives, in a real cluster: by proxy and direct, with a front, a courier or a model process killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.clusters import Cluster, eventually, eventually_async, up
from tests.photos import fake_label, photo
from tests.webhook_receivers import SECRET, Receiver, receiver

pytestmark = pytest.mark.cluster

ASYNC = {"Prefer": "respond-async"}
WAYS = ("proxy", "direct")


def settings(folder: Path, endpoint: Receiver, *more: str) -> list[str]:
    """What ``shoal up`` is told, so that the workers may send webhooks to the receiver."""
    secret = folder / "webhook-secret"
    secret.write_text(SECRET + "\n")
    chosen = (
        f"webhook_hosts={endpoint.host}",
        "webhook_networks=127.0.0.0/8",
        f"webhook_secret={secret}",
        "webhook_pause=0.2",
        *more,
    )
    return [text for setting in chosen for text in ("--worker-setting", setting)]


@asynccontextmanager
async def sessions() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def submit(session: aiohttp.ClientSession, cluster: Cluster, way: str, seed: int, **more: str) -> Any:
    """A job by the gateway, or straight to a worker with a ticket."""
    url, headers = f"{cluster.gateway}/predict", cluster.headers
    if way == "direct":
        async with session.get(f"{cluster.gateway}/lookup", headers=cluster.headers) as response:
            grant = await response.json()
        url, headers = grant["url"], {"Authorization": f"Bearer {grant['ticket']}"}
    async with session.post(url, data=photo(seed), headers={**headers, **ASYNC, **more}) as response:
        document = await response.json()
        assert response.status == 202, document
        assert response.headers["Location"] == document["url"]
        assert response.headers["Preference-Applied"] == "respond-async"
    return document


async def ask(
    session: aiohttp.ClientSession, cluster: Cluster, path: str, method: str = "GET", **headers: str
) -> tuple[int, Any]:
    url = URL(cluster.gateway + path, encoded=True)
    async with session.request(method, url, headers=headers or cluster.headers) as response:
        return response.status, await response.json()


async def result(session: aiohttp.ClientSession, cluster: Cluster, job: Any) -> Any:
    document: Any = None

    async def is_there() -> bool:
        nonlocal document
        status, document = await ask(session, cluster, job["result"])
        return status == 200

    await eventually_async(is_there, within=20, what="the result")
    return document


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_by_every_way(cluster: Cluster, way: str) -> None:
    async with sessions() as session:
        jobs = [await submit(session, cluster, way, seed) for seed in range(6)]
        for seed, job in enumerate(jobs):
            answer = await result(session, cluster, job)
            assert answer["predictions"][0]["label"] == fake_label(photo(seed))
            public = {worker["worker"]: worker["public_url"] for worker in cluster.document["workers"]}
            async with session.get(public[answer["worker"]] + job["result"]) as response:  # whoever knows the id
                assert (response.status, await response.json()) == (200, answer)


async def test_who_may_ask(cluster: Cluster) -> None:
    async with sessions() as session:
        job = await submit(session, cluster, "proxy", 1)
        assert (await ask(session, cluster, job["url"], Authorization="Bearer no"))[1]["error"]["code"] == "invalid_key"
        incarnation, _, name = job["id"].partition(".")
        inside = f"/jobs/{incarnation}.%2F..%2F..%2Fload"  # a path of the worker's internal listener
        for path in (f"/jobs/{'0' * 32}.{name}", f"/jobs/{incarnation}.{'0' * 32}/result", "/jobs/nothing", inside):
            status, document = await ask(session, cluster, path)
            assert (status, document["error"]["code"]) == (404, "unknown_job")


async def test_a_private_webhook_is_refused_by_proxy_and_direct(cluster: Cluster) -> None:
    async with sessions() as session:
        headers = {**cluster.headers, **ASYNC, "Shoal-Webhook": "http://127.0.0.1:9/"}
        async with session.post(f"{cluster.gateway}/predict", data=photo(1), headers=headers) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (403, "url_disabled")


async def test_a_body_that_does_not_come_gets_no_202(cluster: Cluster) -> None:
    async with sessions() as session:

        async def body() -> AsyncIterator[bytes]:
            yield photo(1)[:100]
            await asyncio.Event().wait()

        headers = {**cluster.headers, **ASYNC, "Shoal-Timeout-Ms": "300"}
        async with session.post(f"{cluster.gateway}/predict", data=body(), headers=headers) as response:
            assert response.status in (408, 504)


async def test_a_front_killed_after_the_202_while_a_webhook_fails_twice(tmp_path: Path) -> None:
    """The receiver gets the result once, though the job's front died before the job was executed."""
    async with receiver() as endpoint, sessions() as session:
        with up("--workers", "1", "--model", "fake", *settings(tmp_path, endpoint, "hang_timeout=60")) as cluster:
            for way in WAYS:
                await _front_killed(session, cluster, endpoint, way)
            # And when the whole worker goes, its jobs go along
            job = await submit(session, cluster, "proxy", 2)
            await result(session, cluster, job)
            os.kill(cluster.pids("worker")[0], signal.SIGKILL)

            async def is_gone() -> bool:
                status, document = await ask(session, cluster, job["url"])
                return status == 404 and document["error"]["code"] == "unknown_job"

            await eventually_async(is_gone, within=20, what="404")


async def _front_killed(session: aiohttp.ClientSession, cluster: Cluster, endpoint: Receiver, way: str) -> None:
    endpoint.answers, endpoint.came = [500, 503], []
    (model,) = cluster.pids("model")
    os.kill(model, signal.SIGSTOP)
    job = await submit(session, cluster, way, 1, **{"Shoal-Webhook": endpoint.url})

    def answered() -> list[dict[str, Any]]:
        return cluster.log(role="front", message="request", request_id=job["request_id"])

    await asyncio.to_thread(eventually, answered, within=10, what="the front that took it")
    os.kill(int(answered()[0]["pid"]), signal.SIGKILL)

    async def is_back() -> bool:
        return (await ask(session, cluster, job["url"]))[0] == 200

    await eventually_async(is_back, within=20, what="another front")
    assert (await ask(session, cluster, job["url"]))[1]["status"] == "queued"
    os.kill(model, signal.SIGCONT)

    async def is_delivered() -> bool:
        return bool((await ask(session, cluster, job["url"]))[1]["webhook"]["status"] == "delivered")

    await eventually_async(is_delivered, within=20, what="the webhook")
    answer = await result(session, cluster, job)
    assert answer["predictions"][0]["label"] == fake_label(photo(1))
    # Then it came three times, was accepted once, and is the same each time
    documents = endpoint.documents()
    assert [document["data"]["result"] for document in documents] == [answer] * 3
    assert len(set(endpoint.names)) == 1
    executed = cluster.log(message="executed")
    assert len([record for record in executed if answer["request_id"] in record["request_ids"]]) == 1


async def test_what_a_202_survives(tmp_path: Path) -> None:
    """Courier, model process, front and gateway are killed, one after the other, and nothing is lost."""
    model = "fake?seconds_per_execution=0.2&max_batch_size=1"
    async with receiver() as endpoint, sessions() as session:
        endpoint.held = asyncio.Event()
        more = settings(tmp_path, endpoint, "hang_timeout=2")
        with up("--workers", "1", "--gateways", "2", "--model", model, *more) as cluster:
            webhook = {"Shoal-Webhook": endpoint.url}
            jobs = [await submit(session, cluster, WAYS[seed % 2], seed, **webhook) for seed in range(12)]
            # Given a courier that is sending when it is killed
            await asyncio.wait_for(endpoint.arrived.wait(), 20)
            os.kill(cluster.pids("courier")[0], signal.SIGKILL)
            endpoint.held.set()
            for role in ("model", "front"):
                os.kill(cluster.pids(role)[0], signal.SIGKILL)
            os.kill(cluster.pids("gateway")[1], signal.SIGKILL)

            async def are_delivered() -> bool:
                try:
                    found = [(await ask(session, cluster, job["url"]))[1] for job in jobs]
                except aiohttp.ClientError:
                    return False
                return all(f.get("webhook", {}).get("status") == "delivered" for f in found)

            await eventually_async(are_delivered, within=40, what="every webhook")
            labels = [(await result(session, cluster, job))["predictions"][0]["label"] for job in jobs]
            assert labels == [fake_label(photo(seed)) for seed in range(12)]
            delivered = {document["data"]["id"] for document in endpoint.documents()}
            assert delivered == {job["id"] for job in jobs}
            # And one that hangs is replaced
            hung = int(cluster.log(role="courier")[-1]["pid"])
            os.kill(hung, signal.SIGSTOP)
            await asyncio.to_thread(
                eventually,
                lambda: [r["child_pid"] for r in cluster.log(message="hung, so killed")] == [hung],
                within=20,
                what="its end",
            )
            jobs = [await submit(session, cluster, "proxy", 1, **webhook)]
            await eventually_async(are_delivered, within=20, what="another webhook")


async def test_a_drain_waits_for_jobs_and_their_webhooks(tmp_path: Path) -> None:
    model = "fake?seconds_per_execution=0.5&max_batch_size=1"
    async with receiver([500]) as endpoint, sessions() as session:
        more = settings(tmp_path, endpoint, "grace=0.5")
        with up("--workers", "1", "--model", model, *more) as cluster:
            for seed in range(5):
                await submit(session, cluster, "proxy", seed, **{"Shoal-Webhook": endpoint.url})
            stopping = asyncio.create_task(asyncio.to_thread(cluster.stop))
            assert await stopping == 0
            assert {d["data"]["result"]["predictions"][0]["label"] for d in endpoint.documents()} == {
                fake_label(photo(seed)) for seed in range(5)
            }
            assert not cluster.log(message="jobs are lost: they did not end in time")
