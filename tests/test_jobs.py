"""Asynchronous jobs on a node in the test's process: what a 202 promises, asking about one, and its webhook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aioredis
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook

from shoal import cli, service
from shoal.metrics import CourierMetrics
from shoal.settings import InvalidSettings, WorkerSettings
from shoal.wire import Job, Reply
from tests.clusters import eventually_async
from tests.nodes import Node, fake, node
from tests.photos import fake_label, photo
from tests.redis_servers import KINDS, RedisServer
from tests.test_gateway import both, door
from tests.webhook_receivers import SECRET, Receiver, receiver
from worker.courier import Courier, outcome
from worker.job_records import Head, JobRecords, Terms, name_of
from worker.jobs import Offer
from worker.queue import Queue
from worker.webhooks import InvalidSecret, Sender, secrets_in, signature

KEY = "fake@1"
ASYNC = {"Prefer": "respond-async"}
LOOPBACK: dict[str, Any] = {"webhook_networks": ("127.0.0.0/8",)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(KINDS[-1], tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
async def redis(server: RedisServer) -> AsyncIterator[aioredis.Redis]:
    async with aioredis.Redis(unix_socket_path=str(server.socket)) as client:
        await client.flushall()
        yield client


async def ask(on: Node, path: str, method: str = "GET", front: int = 0) -> tuple[int, Any, Any]:
    async with on.session.request(method, on.urls[front] + path) as response:
        return response.status, await response.json(), response.headers


async def submit(on: Node, seed: int = 1, headers: dict[str, str] | None = None, path: str = "/predict") -> Any:
    status, document, said = await on.post(path, data=photo(seed), headers={**ASYNC, **(headers or {})})
    assert status == 202, document
    assert said["Location"] == document["url"] == f"/jobs/{document['id']}"
    assert said["Preference-Applied"] == "respond-async"
    return document


async def ended(on: Node, job: Any) -> Any:
    """The status, once it is not queued any more."""
    document: Any = None

    async def is_there() -> bool:
        nonlocal document
        document = (await ask(on, job["url"]))[1]
        return bool(document["status"] != "queued")

    await eventually_async(is_there, within=10, what="its end")
    return document


def form(*images: bytes) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for number, image in enumerate(images):
        data.add_field("image", image, filename=f"{number}.jpg", content_type="image/jpeg")
    return data


@asynccontextmanager
async def couriers(
    server: RedisServer, folder: Path, endpoint: Receiver | None = None, *, attempts: int = 12, pause: float = 0.01
) -> AsyncIterator[CollectorRegistry]:
    """A courier of the node, in this process."""
    secret, registry = folder / "secret", CollectorRegistry()
    secret.write_text(SECRET + "\n")
    hosts = (endpoint.host,) if endpoint else ()
    async with (
        JobRecords.connect(str(server.socket)) as records,
        Sender.open(hosts=hosts, networks=["127.0.0.0/8"], secret=secret, timeout=5) as sender,
    ):
        courier = Courier(records, sender, CourierMetrics(registry), attempts=attempts, pause=pause)
        async with service.background(courier.work()):
            yield registry


# The answer


async def test_the_result_is_the_document_of_a_prediction_at_once(server: RedisServer) -> None:
    async with node(server, fake(), fronts=2) as on:
        _, at_once, _ = await on.post(data=photo(1), headers={"X-Request-ID": "same"})
        job = await submit(on, 1, {"X-Request-ID": "same"})
        assert job["status"] in ("queued", "done")
        status = await ended(on, job)
        code, result, _ = await ask(on, job["result"], front=1)  # any front knows it
        assert (status["status"], code) == ("done", 200)
        assert status["created"] <= status["ended"] <= status["deadline"]
        assert 0 < status["expires_in"] <= 3600
        assert result.pop("timings").keys() == at_once.pop("timings").keys()
        assert result == at_once


async def test_several_images_are_one_job(server: RedisServer) -> None:
    async with node(server, fake(max_batch_size="2")) as on:
        images = [photo(seed) for seed in (3, 1, 2)]
        status, job, _ = await on.post(data=form(*images), headers=ASYNC)
        assert status == 202
        await ended(on, job)
        _, result, _ = await ask(on, job["result"])
        assert [a["predictions"][0]["label"] for a in result["answers"]] == [fake_label(image) for image in images]


async def test_until_it_is_there_the_result_is_202(server: RedisServer) -> None:
    async with node(server, fake(), executing=False) as on:
        job = await submit(on)
        code, document, headers = await ask(on, job["result"])
        assert (code, document["status"], headers["Retry-After"]) == (202, "queued", "1")
        on.executing()
        assert (await ended(on, job))["status"] == "done"


async def test_a_model_that_raises_gives_the_same_error_later(server: RedisServer) -> None:
    async with node(server, fake(fail_on=fake_label(photo(1)))) as on:
        at_once = await on.post(data=photo(1))
        job = await submit(on, 1)
        status = await ended(on, job)
        code, document, headers = await ask(on, job["result"])
        assert status["status"] == "failed"
        assert status["error"]["code"] == document["error"]["code"] == at_once[1]["error"]["code"] == "model_failed"
        assert (code, headers["Shoal-Code"]) == (at_once[0], "model_failed")


async def test_one_bad_image_of_many_fails_the_job_and_takes_the_others_back(server: RedisServer) -> None:
    async with node(server, fake(fail_on=fake_label(photo(1)), max_batch_size="1"), executing=False) as on:
        _, job, _ = await on.post(data=form(*(photo(seed) for seed in range(1, 9))), headers=ASYNC)
        assert await on.queue.depth(KEY) == 8
        on.executing()
        assert (await ended(on, job))["error"]["code"] == "model_failed"

        async def is_empty() -> bool:
            return await on.queue.depth(KEY) == 0

        await eventually_async(is_empty, within=5, what="an empty queue")
        assert on.counted("shoal_images_total", model=KEY) < 7


# What is refused


@pytest.mark.parametrize(
    ("path", "headers", "code", "status"),
    [
        ("/", ASYNC, "invalid_option", 400),
        ("/predict?render=1", ASYNC, "wrong_task", 400),
        ("/predict", {"Prefer": "respond-async=yes"}, "invalid_option", 400),
        ("/predict", {**ASYNC, "Shoal-Timeout-Ms": "0"}, "invalid_option", 400),
        ("/predict", {**ASYNC, "Shoal-Webhook": "https://example.com/"}, "url_disabled", 403),
        ("/predict", {"Shoal-Webhook": "https://example.com/"}, "invalid_option", 400),
        ("/predict?webhook=https://example.com/", {}, "invalid_option", 400),
        ("/predict", {**ASYNC, "Shoal-Webhook": " "}, "invalid_option", 400),
        (
            "/predict?webhook=https://a.example/",
            {**ASYNC, "Shoal-Webhook": "https://a.example/"},
            "invalid_option",
            400,
        ),
    ],
)
async def test_a_bad_wish_is_refused(
    server: RedisServer, path: str, headers: dict[str, str], code: str, status: int
) -> None:
    async with node(server, fake()) as on:
        answer = await on.post(path, data=photo(1), headers=headers)
        assert (answer[0], answer[1]["error"]["code"]) == (status, code)
        assert await on.queue.depth(KEY) == 0


@pytest.mark.parametrize("path", ["/v2/models/fake/infer", "/v1/models/fake:predict"])
async def test_other_dialects_answer_at_once_only(server: RedisServer, path: str) -> None:
    async with node(server, fake()) as on:
        status, _, headers = await on.post(path, json={}, headers=ASYNC)
        assert (status, headers["Shoal-Code"]) == (400, "invalid_option")


@pytest.mark.parametrize(
    ("prefer", "status"),
    [
        ("respond-async", 202),
        ("RESPOND-ASYNC; x=1, wait=10", 202),
        ("return=minimal, respond-async", 202),
        ("return=minimal", 200),
        ("", 200),
        ("respond-asynchronously", 200),
    ],
)
async def test_what_prefer_says(server: RedisServer, prefer: str, status: int) -> None:
    async with node(server, fake()) as on:
        assert (await on.post(data=photo(1), headers={"Prefer": prefer}))[0] == status


async def test_a_bad_image_is_refused_before_there_is_a_202(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        answer = await on.post(data=b"no picture", headers=ASYNC)
        assert (answer[0], answer[1]["error"]["code"]) == (415, "unsupported_image")
        answer = await on.post(data=photo(1)[:200], headers=ASYNC)
        assert (answer[0], answer[1]["error"]["code"]) == (422, "invalid_image")


async def test_where_none_are_kept_none_are_taken(server: RedisServer) -> None:
    async with node(server, fake(), jobs_kept=0) as on:
        answer = await on.post(data=photo(1), headers=ASYNC)
        assert (answer[0], answer[1]["error"]["code"]) == (403, "jobs_disabled")


async def test_no_more_are_kept_than_may_be(server: RedisServer) -> None:
    async with node(server, fake(), jobs_kept=2) as on:
        for seed in (1, 2):
            await ended(on, await submit(on, seed))
        answer = await on.post(data=photo(3), headers=ASYNC)
        assert (answer[0], answer[1]["error"]["code"]) == (429, "queue_full")
        assert (await on.post(data=photo(3)))[0] == 200


async def test_no_more_bytes_are_kept_than_may_be(server: RedisServer) -> None:
    async with node(server, fake(), job_bytes=1) as on:
        await submit(on, 1)
        answer = await on.post(data=photo(2), headers=ASYNC)
        assert (answer[0], answer[1]["error"]["code"]) == (429, "queue_full")


async def test_a_full_queue_refuses_jobs_and_leaves_no_record(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), executing=False, capacity=4) as on:
        for seed in (1, 2, 3):
            await submit(on, seed)
        answer = await on.post(data=form(photo(4), photo(5)), headers=ASYNC)
        assert (answer[0], answer[1]["error"]["code"]) == (429, "queue_full")
        assert await on.queue.depth(KEY) == len(await redis.keys("shoal:job:*")) == 3


@pytest.mark.parametrize("id", ["x", "i." + "0" * 32, "i." + "0" * 31, "other." + "a" * 32, "%00", "i%2e" + "g" * 32])
@pytest.mark.parametrize(("method", "more"), [("GET", ""), ("GET", "/result"), ("DELETE", "")])
async def test_an_unknown_job(server: RedisServer, id: str, method: str, more: str) -> None:
    async with node(server, fake()) as on:
        code, document, _ = await ask(on, f"/jobs/{id}{more}", method)
        assert code == 404
        assert document["error"]["code"] in ("unknown_job", "unknown_path")


async def test_ids_cannot_be_guessed(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        names = {name_of((await submit(on, 1))["id"]) for _ in range(20)}
        assert len(names) == 20
        assert all(len(name) == 32 for name in names)


async def test_a_job_that_is_sent_twice_is_one(server: RedisServer) -> None:
    id = "i." + "a" * 32
    head = Head(id=id, model=KEY, images=("1",), about={}, stages={})
    job = Job(id="1", inputs={}, waiters=[], submitted=time.monotonic(), remaining_ms=9000, request_id="", record=id)
    offer = Offer("1", id, "", time.monotonic() + 9, job=job)
    async with Queue.connect(str(server.socket)) as queue, JobRecords.connect(str(server.socket)) as records:
        for depth in (1, -1):
            accepted = await records.accept(head, [offer], Terms(9, 9999, 9), capacity=9, capacity_bytes=9999)
            assert accepted == depth
        assert await queue.depth(KEY) == 1


async def test_a_preference_in_several_lines_reaches_the_worker(tmp_path: Path) -> None:
    worker = both("a")
    async with door(tmp_path, worker) as d:
        lines = [("Prefer", "wait=5"), ("Prefer", "respond-async"), ("Cache-Control", "max-age=0, no-store")]
        async with d.session.post(f"{d.url}predict", data=b"x", headers=lines) as answer:
            assert answer.status == 200
    assert worker.uploads[0].headers["Prefer"] == "wait=5, respond-async"


async def test_a_gateway_that_asks_two_workers_says_one_id_and_the_clients_own_deadline(tmp_path: Path) -> None:
    refusing, busy = both("a"), both("b", depth=900)
    refusing.refuses = 503
    async with door(tmp_path, refusing, busy) as d:
        for _ in range(2):
            answer = await d.predict(
                Prefer="respond-async",
                Shoal_Job="f" * 32,
                Shoal_Timeout_Ms="900000",
                Shoal_Webhook="https://hooks.example/",
            )
            assert answer.status == 200
        assert (await d.predict(Prefer="respond-async")).status == 200
    said = [[(u.headers["Shoal-Job"], u.headers.get("Shoal-Timeout-Ms")) for u in w.uploads] for w in (refusing, busy)]
    assert said[0] == said[1]
    assert [timeout for _, timeout in said[0]] == ["900000", "900000", None]
    assert len({name for name, _ in said[0]} - {"f" * 32}) == 3
    assert busy.uploads[0].headers["Shoal-Webhook"] == "https://hooks.example/"


# Cancelling, deadlines, lifetimes


async def test_a_job_is_cancelled_before_it_is_claimed(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), executing=False) as on:
        job = await submit(on, 1)
        other = await submit(on, 2)
        assert (await ask(on, job["url"], "DELETE"))[1]["status"] == "cancelled"
        assert await on.queue.depth(KEY) == 1
        code, document, _ = await ask(on, job["result"])
        assert (code, document["error"]["code"]) == (410, "job_cancelled")
        on.executing()
        assert (await ended(on, other))["status"] == "done"
        assert on.counted("shoal_images_total", model=KEY) == 1
        assert (await ask(on, job["url"], "DELETE"))[1]["status"] == "cancelled"
        assert await redis.get(f"shoal:{KEY}:bytes") == b"0"


async def test_what_has_ended_is_not_cancelled(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        job = await submit(on, 1)
        await ended(on, job)
        assert (await ask(on, job["url"], "DELETE"))[1]["status"] == "done"
        assert (await ask(on, job["result"]))[0] == 200


async def test_an_answer_that_comes_after_its_job_was_cancelled_is_dropped(server: RedisServer) -> None:
    runtime: Any = fake(held=True)
    async with node(server, runtime) as on:
        job = await submit(on, 1)

        async def is_executing() -> bool:
            return bool(runtime.seen)

        await eventually_async(is_executing, within=5, what="an execution")
        assert (await ask(on, job["url"], "DELETE"))[1]["status"] == "cancelled"
        runtime.released.set()

        async def is_empty() -> bool:
            return await on.queue.depth(KEY) == 0

        await eventually_async(is_empty, within=5, what="an empty queue")
        assert (await ask(on, job["url"]))[1]["status"] == "cancelled"


async def test_a_job_that_nobody_claims_fails_at_its_deadline(server: RedisServer) -> None:
    async with node(server, fake(), executing=False) as on:
        job = await submit(on, 1, {"Shoal-Timeout-Ms": "300"})
        assert (await ended(on, job))["error"]["code"] == "deadline_exceeded"
        code, document, _ = await ask(on, job["result"])
        assert (code, document["error"]["code"]) == (504, "deadline_exceeded")
        assert await on.queue.depth(KEY) == 0


async def test_a_job_has_a_longer_deadline_than_a_request(server: RedisServer) -> None:
    async with node(server, fake(), executing=False, request_timeout=0.2, longest_timeout=0.2) as on:
        job = await submit(on, 1)
        on.executing()
        assert (await ended(on, job))["status"] == "done"


async def test_a_record_is_forgotten_when_its_lifetime_ends(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), job_lifetime=0.3) as on:
        job = await submit(on, 1)
        await ended(on, job)

        async def is_gone() -> bool:
            return (await ask(on, job["url"]))[0] == 404

        await eventually_async(is_gone, within=5, what="its end")
        assert (await ask(on, job["result"]))[1]["error"]["code"] == "unknown_job"
        assert await redis.keys("shoal:job:*") == []
        assert await redis.get("shoal:jobs:bytes") == b"0"


async def test_a_front_that_dies_leaves_its_jobs(server: RedisServer) -> None:
    """What the supervisor cleans up after a front is what that one waited for."""
    async with node(server, fake(), executing=False) as on:
        job = await submit(on, 1)
        assert await on.queue.abandon(KEY, "front0") == 0
        on.executing()
        assert (await ended(on, job))["status"] == "done"


async def test_a_version_that_is_withdrawn_fails_its_jobs(server: RedisServer) -> None:
    async with node(server, fake(), executing=False) as on:
        job = await submit(on, 1)
        await on.queue.forget_model(KEY)
        assert (await ended(on, job))["error"]["code"] == "not_ready"


async def test_an_image_that_kills_its_process_fails_its_job(server: RedisServer) -> None:
    async with node(server, fake(), executing=False) as on:
        job = await submit(on, 1)
        async with Queue.connect(str(server.socket)) as queue:
            for _ in range(3):
                await queue.claim(KEY, "dead", 1, 0)
                _, culprits = await queue.reclaim(KEY, "dead")
            (culprit,) = culprits
            await queue.reply(culprit, Reply(culprit.id, code="model_crashed", message="It died."))
        assert (await ended(on, job))["error"] == {"code": "model_crashed", "message": "It died."}


# Webhooks


async def test_a_webhook_that_fails_twice_gets_the_result_once(server: RedisServer, tmp_path: Path) -> None:
    async with (
        receiver([500, 302]) as endpoint,
        node(server, fake(), webhook_hosts=(endpoint.host,), **LOOPBACK) as on,
        couriers(server, tmp_path, endpoint) as registry,
    ):
        job = await submit(on, 1, {"Shoal-Webhook": endpoint.url})

        async def is_delivered() -> bool:
            return bool((await ask(on, job["url"]))[1]["webhook"]["status"] == "delivered")

        await eventually_async(is_delivered, within=10, what="the webhook")
        result = (await ask(on, job["result"]))[1]
        documents = endpoint.documents()
        assert len(documents) == 3
        assert documents[0] == documents[1] == documents[2]
        assert documents[0]["type"] == "job.done"
        assert documents[0]["data"] == {"id": job["id"], "status": "done", "url": job["url"], "result": result}
        assert set(endpoint.names) == {name_of(job["id"])}
        webhook = (await ask(on, job["url"]))[1]["webhook"]
        assert webhook == {"status": "delivered", "attempts": 3, "last_answer": "204", "next_attempt_in": None}
        assert registry.get_sample_value("shoal_webhook_attempts_total", {"outcome": "retried"}) == 2
        assert registry.get_sample_value("shoal_webhook_attempts_total", {"outcome": "delivered"}) == 1
    async with JobRecords.connect(str(server.socket)) as records:
        assert (await records.due(10)).waiting == 0


@asynccontextmanager
async def full(redis: aioredis.Redis) -> AsyncIterator[None]:
    """No script may begin with what takes memory."""
    await redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await redis.config_set("maxmemory", 0)


async def test_a_full_redis_sends_a_webhook_once_too(
    server: RedisServer, redis: aioredis.Redis, tmp_path: Path
) -> None:
    async with receiver([]) as endpoint, node(server, fake(), webhook_hosts=(endpoint.host,), **LOOPBACK) as on:
        job = await submit(on, 1, {"Shoal-Webhook": endpoint.url})
        await ended(on, job)

        async def is_delivered() -> bool:
            return bool((await ask(on, job["url"]))[1]["webhook"]["status"] == "delivered")

        async with full(redis), couriers(server, tmp_path, endpoint):
            await eventually_async(is_delivered, within=10, what="the webhook")
        assert len(endpoint.came) == 1


async def test_a_full_redis_forgets_what_has_had_its_time(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), executing=False, job_lifetime=0.05, job_timeout=0.2) as on:
        job = await submit(on, 1)

        async def is_forgotten() -> bool:
            return (await ask(on, job["url"]))[0] == 404

        async with full(redis):
            await eventually_async(is_forgotten, within=10, what="its end and its time after that")


async def test_a_webhook_that_nobody_wants_any_more(server: RedisServer, tmp_path: Path) -> None:
    async with (
        receiver([410]) as endpoint,
        node(server, fake(), webhook_hosts=(endpoint.host,), **LOOPBACK) as on,
        couriers(server, tmp_path, endpoint),
    ):
        job = await submit(on, 1, path=f"/predict?webhook={endpoint.url}")

        async def has_failed() -> bool:
            return bool((await ask(on, job["url"]))[1]["webhook"]["status"] == "failed")

        await eventually_async(has_failed, within=10, what="its end")
        assert len(endpoint.came) == 1


async def test_a_courier_gives_up_and_the_result_stays(server: RedisServer, tmp_path: Path) -> None:
    async with (
        receiver([500] * 10) as endpoint,
        node(server, fake(), webhook_hosts=(endpoint.host,), **LOOPBACK) as on,
        couriers(server, tmp_path, endpoint, attempts=3),
    ):
        job = await submit(on, 1, {"Shoal-Webhook": endpoint.url})

        async def has_failed() -> bool:
            return bool((await ask(on, job["url"]))[1]["webhook"]["status"] == "failed")

        await eventually_async(has_failed, within=10, what="its end")
        assert len(endpoint.came) == 3
        assert (await ask(on, job["result"]))[0] == 200


async def test_a_courier_that_dies_while_it_sends_is_followed_by_one_that_sends_again(
    server: RedisServer, tmp_path: Path
) -> None:
    async with receiver() as endpoint, node(server, fake(), webhook_hosts=(endpoint.host,), **LOOPBACK) as on:
        endpoint.held = asyncio.Event()
        async with couriers(server, tmp_path, endpoint):
            job = await submit(on, 1, {"Shoal-Webhook": endpoint.url})
            await asyncio.wait_for(endpoint.arrived.wait(), 10)
        assert (await ask(on, job["url"]))[1]["webhook"]["status"] == "waiting"
        endpoint.held.set()
        async with couriers(server, tmp_path, endpoint):

            async def is_delivered() -> bool:
                return bool((await ask(on, job["url"]))[1]["webhook"]["status"] == "delivered")

            await eventually_async(is_delivered, within=10, what="the webhook")
        assert endpoint.names == [name_of(job["id"])] * 2


async def test_a_job_that_is_late_has_its_webhook_at_its_deadline(server: RedisServer, tmp_path: Path) -> None:
    async with (
        receiver() as endpoint,
        node(server, fake(), executing=False, webhook_hosts=(endpoint.host,), **LOOPBACK) as on,
        couriers(server, tmp_path, endpoint),
    ):
        await submit(on, 1, {"Shoal-Webhook": endpoint.url, "Shoal-Timeout-Ms": "300"})
        await asyncio.wait_for(endpoint.arrived.wait(), 10)
        (document,) = endpoint.documents()
        assert document["type"] == "job.failed"
        assert document["data"]["result"]["error"]["code"] == "deadline_exceeded"


async def test_a_cancelled_job_sends_no_webhook(server: RedisServer, tmp_path: Path) -> None:
    async with (
        receiver() as endpoint,
        node(server, fake(), executing=False, webhook_hosts=(endpoint.host,), **LOOPBACK) as on,
    ):
        job = await submit(on, 1, {"Shoal-Webhook": endpoint.url})
        await ask(on, job["url"], "DELETE")
        async with JobRecords.connect(str(server.socket)) as records:
            assert (await records.due(10)).waiting == 0


async def test_what_happens_to_jobs_is_counted_once(server: RedisServer, tmp_path: Path) -> None:
    async with node(server, fake()) as on:
        for seed in range(5):
            await ended(on, await submit(on, seed))
        async with couriers(server, tmp_path) as registry:

            async def are_counted() -> bool:
                return registry.get_sample_value("shoal_jobs_total", {"model": KEY, "status": "done"}) == 5

            await eventually_async(are_counted, within=10, what="five jobs")
        async with JobRecords.connect(str(server.socket)) as records:
            assert await records.events(0.01) == []


@pytest.mark.parametrize(
    ("url", "addresses", "status", "code"),
    [
        ("https://hooks.example/x", ["93.184.216.34"], 202, ""),
        ("https://hooks.example/x", [], 202, ""),
        ("https://hooks.example/x", ["10.0.0.1"], 403, "url_not_allowed"),
        ("https://hooks.example/x", ["93.184.216.34", "127.0.0.1"], 403, "url_not_allowed"),
        ("https://127.0.0.1/x", [], 403, "url_not_allowed"),
        ("https://other.example/x", ["93.184.216.34"], 403, "url_not_allowed"),
        ("ftp://hooks.example/x", [], 400, "invalid_url"),
        ("https://me@hooks.example/x", [], 400, "invalid_url"),
        ("hooks.example", [], 400, "invalid_url"),
        ("https://hooks.example/" + "a" * 5000, [], 400, "invalid_url"),
    ],
)
async def test_where_webhooks_may_go(
    server: RedisServer, url: str, addresses: list[str], status: int, code: str
) -> None:
    async def resolve(host: str) -> list[str]:
        if not addresses:
            raise OSError("not known")
        return addresses

    async with node(server, fake(), resolve=resolve, webhook_hosts=("hooks.example", "127.0.0.1")) as on:
        answer = await on.post(data=photo(1), headers={**ASYNC, "Shoal-Webhook": url})
        assert (answer[0], answer[1].get("error", {}).get("code", "")) == (status, code)


async def test_a_host_that_moves_to_a_private_address_gets_nothing(tmp_path: Path) -> None:
    """The address is checked at every attempt, and is the one that is connected to."""

    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    async with receiver() as endpoint:
        port = endpoint.host.partition(":")[2]
        url, hosts = f"http://hooks.example:{port}/", (f"hooks.example:{port}",)
        async with Sender.open(hosts=hosts, networks=(), secret=secret, timeout=5, resolve=resolve) as sender:
            assert await sender.send(url, "name", b"{}") == "url_not_allowed"
        assert endpoint.came == []
        networks = ("127.0.0.0/8",)
        async with Sender.open(hosts=hosts, networks=networks, secret=secret, timeout=5, resolve=resolve) as sender:
            assert await sender.send(url, "name", b"{}") == "204"


@pytest.mark.parametrize("text", ["", "\n", "abc", "whsec_", "whsec_!!!!", "whsec_YWJj", SECRET + "\nwhsec_x"])
def test_what_is_no_secret(text: str) -> None:
    with pytest.raises(InvalidSecret):
        secrets_in(text)


def test_a_secret_is_made_by_the_command_and_the_old_one_still_signs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secrets"
    for _ in range(2):
        assert cli.main(["keys", "webhook", "--file", str(file)]) == 0
    printed = capsys.readouterr().out.split()
    assert len(set(printed)) == 2
    body, headers = b'{"a":1}', {"webhook-id": "x", "webhook-timestamp": str(int(time.time()))}
    headers["webhook-signature"] = signature(secrets_in(file.read_text()), "x", int(headers["webhook-timestamp"]), body)
    for secret in printed:
        assert Webhook(secret).verify(body, headers) == {"a": 1}
    assert file.stat().st_mode & 0o777 == 0o600


def test_webhooks_without_a_secret_do_not_start() -> None:
    settings = ["--discovery", "static://x:1", "--webhook-hosts", "hooks.example"]
    with pytest.raises(InvalidSettings, match="webhook_secret is missing"):
        WorkerSettings.load(settings)


@given(body=st.binary(max_size=200), name=st.text("abcdef0123456789", min_size=1, max_size=32))
def test_signatures_are_those_of_standard_webhooks(body: bytes, name: str) -> None:
    text = body.decode("latin-1")
    other = "whsec_" + "A" * 32
    ours = signature(secrets_in(f"{SECRET}\n{other}"), name, 1_700_000_000, text.encode())
    instant = datetime.fromtimestamp(1_700_000_000, UTC)
    assert ours == f"{Webhook(SECRET).sign(name, instant, text)} {Webhook(other).sign(name, instant, text)}"


@pytest.mark.parametrize(
    ("said", "attempts", "expected"),
    [
        ("200", 0, "delivered"),
        ("204", 5, "delivered"),
        ("410", 0, "failed"),
        ("302", 0, "waiting"),
        ("404", 0, "waiting"),
        ("500", 10, "waiting"),
        ("500", 11, "failed"),
        ("timeout", 0, "waiting"),
        ("no answer", 11, "failed"),
    ],
)
def test_what_becomes_of_an_attempt(said: str, attempts: int, expected: str) -> None:
    assert outcome(said, attempts, most=12, pause=1.0)[0] == expected


def test_pauses_double_up_to_five_minutes() -> None:
    for attempts in range(40):
        longest = min(300.0, 2.0**attempts)
        assert longest / 2 <= outcome("500", attempts, most=100, pause=1.0)[1] <= longest
