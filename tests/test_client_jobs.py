"""Asynchronous jobs by the SDK: against gateways that misbehave, and in a real cluster by every way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from shoal import AsyncClient, AsyncJob, Client, errors
from shoal.client import Mode
from tests.clusters import Cluster
from tests.photos import fake_label, photo
from tests.test_client import ANSWER, Reply, gateway, good

MODES: tuple[Mode, ...] = ("proxy", "direct")


class Jobs:
    """A gateway that takes jobs and answers about them as it is told, the last answer again and again."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.requests: list[web.Request] = []

    async def __call__(self, request: web.Request) -> object:
        self.requests.append(request)
        if request.path == "/lookup":
            return await good(request)
        if request.path == "/predict":
            return web.json_response({"id": "a.b", "status": "queued"}, status=202)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, errors.ShoalError):
            return web.json_response(answer.body("r"), status=answer.status)
        return web.json_response(answer, status=202 if answer is QUEUED else 200)


QUEUED = {"id": "a.b", "status": "queued"}


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_asked_for_a_job(mode: Mode) -> None:
    jobs = Jobs(QUEUED, QUEUED, ANSWER)
    async with gateway(jobs) as url, AsyncClient(url, api_key="k", mode=mode) as client:
        job = await client.submit(b"x", model="m", priority="bulk", timeout=90, webhook="https://h.example/")
        assert (await job.result()).document == ANSWER
    upload = next(request for request in jobs.requests if request.method == "POST")
    assert upload.headers["Prefer"] == "respond-async"
    assert upload.headers["Shoal-Webhook"] == "https://h.example/"
    assert {request.headers.get("Shoal-Timeout-Ms") for request in jobs.requests[: 1 + (mode == "direct")]} == {"90000"}
    asked = [(request.path, request.headers["Authorization"]) for request in jobs.requests[-3:]]
    assert asked == [("/jobs/a.b/result", "Bearer k")] * 3


async def test_a_job_is_found_again_by_its_id_and_cancelled() -> None:
    jobs = Jobs({"id": "c/c.d", "status": "cancelled"})
    async with gateway(jobs) as url, AsyncClient(url) as client:
        job = client.job("c/c.d")
        assert (await job.status())["status"] == (await job.cancel())["status"] == "cancelled"
        assert "d" not in repr(job).partition(" ")[2]
    assert [(request.method, request.raw_path) for request in jobs.requests] == [
        ("GET", "/jobs/c%2Fc.d"),
        ("DELETE", "/jobs/c%2Fc.d"),
    ]


@pytest.mark.parametrize("error", [errors.ModelCrashed, errors.JobCancelled, errors.UnknownJob, errors.NotReady])
async def test_the_error_of_a_job_is_raised(error: type[errors.ShoalError]) -> None:
    jobs = Jobs(QUEUED, error("mine"), {"id": "a.b", "status": "failed"})
    async with gateway(jobs) as url, AsyncClient(url) as client:
        with pytest.raises(error, match="mine"):
            await (await client.submit(b"x")).result(timeout=10)


@pytest.mark.parametrize("error", [errors.BadGateway, errors.TooManyRequests, errors.NotReady])
@pytest.mark.parametrize("status", [QUEUED, {"id": "a.b", "status": "done"}, errors.BadGateway("away")])
async def test_an_error_of_the_way_is_waited_out(error: type[errors.ShoalError], status: object) -> None:
    """The second question is how the job stands: it goes on, it is there, or nobody says."""
    async with gateway(Jobs(error("away"), status, QUEUED, ANSWER)) as url, AsyncClient(url) as client:
        assert (await (await client.submit(b"x")).result(timeout=10)).worker == "w"


async def test_a_job_that_is_lost_meanwhile_is_told() -> None:
    async with gateway(Jobs(errors.BadGateway("away"), errors.UnknownJob())) as url, AsyncClient(url) as client:
        with pytest.raises(errors.UnknownJob):
            await (await client.submit(b"x")).result(timeout=10)


async def test_who_is_not_trusted_is_not_waited_for() -> None:
    async def ask(path: str, *, method: str = "GET") -> object:
        raise errors.UntrustedServer

    with pytest.raises(errors.UntrustedServer):
        await AsyncJob("a.b", ask).result(timeout=5)


async def test_a_word_that_there_is_not_is_refused() -> None:
    async with AsyncClient("http://h:1") as client:
        with pytest.raises(TypeError, match="there is no modle: model, version"):
            await client.submit(b"x", modle="m")  # type: ignore[call-arg]


async def test_images_that_may_wait_share_a_lookup() -> None:
    """A grant is held to what a job may take, not to the time that the client gives itself."""

    async def slow(request: web.Request) -> object:
        lookups.append(request)
        return {**await good(request), "expected_wait": 300}

    lookups: list[web.Request] = []
    jobs = Jobs(ANSWER)
    reply: Reply = lambda request: slow(request) if request.path == "/lookup" else jobs(request)  # noqa: E731
    async with gateway(reply) as url, AsyncClient(url) as client:
        await asyncio.gather(*(client.submit(b"x", timeout=900) for _ in range(8)))
    assert len(lookups) <= 2
    assert {lookup.headers["Prefer"] for lookup in lookups} == {"respond-async"}


async def test_whoever_waits_too_briefly_is_told_and_the_job_goes_on() -> None:
    jobs = Jobs(errors.BadGateway("away"))
    async with gateway(jobs) as url, AsyncClient(url) as client:
        job = await client.submit(b"x")
        with pytest.raises(errors.DeadlineExceeded, match=r"not ended yet.* away"):
            await job.result(timeout=0.3)
    assert "DELETE" not in {request.method for request in jobs.requests}


async def _no_job(request: web.Request) -> object:
    return {"success": True}


async def test_what_is_no_job_is_refused() -> None:
    async with gateway(_no_job) as url, AsyncClient(url, mode="proxy") as client:
        with pytest.raises(errors.BadGateway):
            await client.submit(b"x")
        with pytest.raises(errors.BadGateway):
            await client.job("a.b").result(timeout=5)


async def test_the_blocking_client_has_jobs_too() -> None:
    jobs: Reply = Jobs(QUEUED, ANSWER)

    def use(url: str) -> tuple[str, Any]:
        with Client(url, mode="proxy") as client:
            job = client.submit(b"x")
            return client.job(job.id).id, job.result(timeout=10).document

    async with gateway(jobs) as url:
        assert await asyncio.to_thread(use, url) == ("a.b", ANSWER)


@pytest.mark.cluster
@pytest.mark.parametrize("mode", MODES)
async def test_jobs_in_a_cluster(cluster: Cluster, mode: Mode) -> None:
    async with AsyncClient(cluster.gateway, api_key=cluster.api_key, mode=mode) as client:
        jobs = await asyncio.gather(*(client.submit(photo(seed), priority="bulk") for seed in range(8)))
        answers = await asyncio.gather(*(job.result(timeout=30) for job in jobs))
        assert [answer.predictions[0].label for answer in answers] == [fake_label(photo(seed)) for seed in range(8)]
        again: AsyncJob = client.job(jobs[0].id)
        assert (await again.status())["status"] == (await again.cancel())["status"] == "done"
        with pytest.raises(errors.UnsupportedImage):
            await client.submit(b"no image")
        with pytest.raises(errors.UrlDisabled):
            await client.submit(photo(1), webhook="https://hooks.example.com/")
        with pytest.raises(errors.UnknownJob):
            await client.job("nobody").result(timeout=5)
