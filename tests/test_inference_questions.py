"""What workers and gateways answer to the questions of the Open Inference Protocol, when not all is well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request
from prometheus_client import CollectorRegistry

from gateway.open_inference import added
from shoal import http, tickets
from shoal.errors import QueueFull
from shoal.metrics import FrontMetrics
from shoal.tickets import Signer, Verifier
from shoal.wire import ImageInput, ModelCard, ModelState, NodeState, Status, TensorSpec
from tests.test_fleet import load
from tests.test_gateway import Door, Recorder, door
from worker.answering import measured as counting
from worker.dialects.inference_statistics import Statistics
from worker.dialects.open_inference_questions import OpenInferenceQuestions, metadata
from worker.load_reports import LoadReports
from worker.questions import Questions

STATES: tuple[Status, ...] = ("ready", "stalled", "restarting", "loading", "failed", "stopping")
CARD = ModelCard("digits", "2", "d", "classification", ImageInput("image", 4, 6, channels=1), 8, platform="keras_h5")


def sample(name: str, value: float, **labels: str) -> tuple[str, dict[str, str], float]:
    return name, labels, value


# --- a worker ----------------------------------------------------------------------------------------------------


class Told(LoadReports):
    """A front's knowledge of its node, as a test writes it."""

    def __init__(self, state: NodeState, *, informed: bool = True) -> None:
        self.state = state
        self._informed = informed

    @property
    def is_informed(self) -> bool:
        return self._informed


async def ask(told: Told, path: str, *, keys: Path | None = None, token: str = "", **options: Any) -> tuple[int, Any]:
    """What a worker answers to ``path``; with ``keys``, it wants a ticket of theirs."""
    verifier = Verifier(keys, "i") if keys else None
    front_metrics = FrontMetrics(CollectorRegistry())

    async def healthy(request: web.Request) -> web.Response:
        return http.json_response({})

    def ticket(request: web.Request) -> tickets.Ticket | None:
        return verifier.verify(http.bearer(request) or "") if verifier else None

    app = web.Application(middlewares=[http.middleware(front_metrics, lambda: False)])
    questions = OpenInferenceQuestions(Questions(told, ticket), front_metrics, live=healthy, ready=healthy)
    questions.add_to(app)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with TestServer(app) as server, aiohttp.ClientSession(headers=headers) as session:
        method = options.pop("method", "GET")
        async with session.request(method, str(server.make_url(path)), **options) as response:
            return response.status, await response.json()


def node_state(**models: ModelState) -> NodeState:
    return NodeState(models={key.replace("_", "@"): state for key, state in models.items()})


async def test_a_workers_index_says_why() -> None:
    reasons = {state: ModelState(state, reason="told so" if state == "failed" else "") for state in STATES}
    told = Told(NodeState(models={f"{state}@1": reasons[state] for state in STATES}))
    status, entries = await ask(told, "/v2/repository/index", method="POST")
    assert status == 200
    assert {entry["name"]: (entry["state"], entry["reason"]) for entry in entries} == {
        "ready": ("READY", ""),
        "stalled": ("UNAVAILABLE", "stalled"),
        "restarting": ("LOADING", "restarting"),
        "loading": ("LOADING", "loading"),
        "failed": ("UNAVAILABLE", "told so"),
        "stopping": ("UNAVAILABLE", "stopping"),
    }
    _, entries = await ask(told, "/v2/repository/index", method="POST", json={"ready": True})
    assert [entry["name"] for entry in entries] == ["ready"]
    assert (await ask(told, "/v2/models"))[1] == {"models": list(STATES)}


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"[" * 50_000])
async def test_an_index_request_that_is_none(body: bytes) -> None:
    status, document = await ask(Told(NodeState()), "/v2/repository/index", method="POST", data=body)
    assert (status, [*document]) == (400, ["error"])


async def test_a_model_that_is_not_ready_says_so() -> None:
    told = Told(node_state(digits_2=ModelState("stalled", CARD), digits_3=ModelState("loading")))
    assert await ask(told, "/v2/models/digits/versions/2/ready") == (503, {"error": "The model digits@2 is stalled."})
    assert await ask(told, "/v2/models/digits/versions/3/ready") == (503, {"error": "The model digits@3 is loading."})
    status, document = await ask(told, "/v2/models/digits/versions/4")
    assert (status, "digits@4" in document["error"]) == (404, True)


async def test_a_worker_without_a_supervisor_says_nothing() -> None:
    told = Told(node_state(digits_2=ModelState("ready", CARD)), informed=False)
    for path in ("/v2/models", "/v2/models/digits", "/v2/models/digits/stats", "/v2/models/stats"):
        assert (await ask(told, path))[0] == 503, path


async def test_a_ticket_is_for_its_model_alone(tmp_path: Path) -> None:
    tickets.generate(tmp_path / "key", tmp_path / "keys")
    signer = Signer.load(tmp_path / "key")
    token = signer.sign(audience="i", model="digits@2", subject="s", max_bytes=1, uses=1, lifetime=9)
    told = Told(node_state(digits_2=ModelState("ready", CARD), cat_1=ModelState("ready", CARD)))
    for path, status in {
        "/v2": 200,
        "/v2/models": 200,
        "/v2/models/digits": 200,
        "/v2/models/digits/stats": 200,
        "/v2/models/stats": 200,
        "/v2/models/cat": 401,
        "/v2/models/cat/stats": 401,
        "/v2/models/cat/ready": 401,
        "/v2/models/digits/versions/1": 401,
    }.items():
        assert (await ask(told, path, keys=tmp_path / "keys", token=token))[0] == status, path
        assert (await ask(told, path, keys=tmp_path / "keys", token="altered"))[0] == 401, path


async def test_a_model_called_stats_can_be_asked_about_by_its_version() -> None:
    card = msgspec.structs.replace(CARD, model="stats")
    told = Told(node_state(stats_2=ModelState("ready", card)))
    assert (await ask(told, "/v2/models/stats/versions/2"))[1]["name"] == "stats"
    assert "model_stats" in (await ask(told, "/v2/models/stats"))[1]


@pytest.mark.parametrize(
    ("tensor", "described"),
    [
        (None, {"name": "image", "datatype": "UINT8", "shape": [-1, 4, 6, 1]}),
        (TensorSpec("x", "float32", (-1, 3)), {"name": "x", "datatype": "FP32", "shape": [-1, -1, 3]}),
        (TensorSpec("x", "complex64", (3,)), {"name": "image", "datatype": "UINT8", "shape": [-1, 4, 6, 1]}),
        (TensorSpec("x", "nothing", (3,)), {"name": "image", "datatype": "UINT8", "shape": [-1, 4, 6, 1]}),
    ],
)
def test_the_input_is_the_networks_own_where_it_has_a_name(tensor: TensorSpec | None, described: Any) -> None:
    outputs = (TensorSpec("y", "bool", ()), TensorSpec("z", "complex64", (1,)))
    card = msgspec.structs.replace(CARD, tensor=tensor, outputs=outputs)
    document = metadata(card, ["1", "2"])
    assert document["inputs"] == [described]
    assert document["outputs"] == [{"name": "y", "datatype": "BOOL", "shape": [-1]}]
    assert (document["platform"], document["versions"]) == ("keras_h5", ["1", "2"])


def test_statistics_are_what_was_counted_of_this_version() -> None:
    stage = "shoal_stage_duration_seconds"
    entry = Statistics(
        [
            sample("shoal_images_total", 5, model="m@1"),
            sample("shoal_images_total", 50, model="m@2"),
            sample("shoal_executions_total", 1, model="m@1", size="1"),
            sample("shoal_executions_total", 2, model="m@1", size="2"),
            sample("shoal_executions_total", 9, model="m@2", size="9"),
            sample("shoal_execution_seconds_total", 0.5, model="m@1", size="1"),
            sample("shoal_execution_seconds_total", 1.5, model="m@1", size="2"),
            sample("shoal_model_requests_total", 4, model="m@1", result="success"),
            sample("shoal_model_request_seconds_total", 2.5, model="m@1", result="success"),
            sample("shoal_model_requests_total", 3, model="m@1", result="failure"),
            sample(f"{stage}_count", 4, model="m@1", stage="queue"),
            sample(f"{stage}_sum", 0.000000001, model="m@1", stage="queue"),
            sample("shoal_cache_hits_total", 7, model="m@1"),
            sample("shoal_cache_hit_seconds_total", 0.25, model="m@1"),
            sample("shoal_last_answer_timestamp_seconds", 1700000000.1234, model="m@1"),
        ]
    ).of("m@1")
    assert (entry["name"], entry["version"], entry["last_inference"]) == ("m", "1", 1700000000123)
    assert (entry["inference_count"], entry["execution_count"]) == (5, 3)
    assert entry["batch_stats"] == [
        {"batch_size": 1, "compute_infer": {"count": 1, "ns": 500_000_000}},
        {"batch_size": 2, "compute_infer": {"count": 2, "ns": 1_500_000_000}},
    ]
    assert entry["inference_stats"] == {
        "success": {"count": 4, "ns": 2_500_000_000},
        "fail": {"count": 3, "ns": 0},
        "queue": {"count": 4, "ns": 1},
        "compute_input": {"count": 0, "ns": 0},
        "compute_infer": {"count": 0, "ns": 0},
        "compute_output": {"count": 0, "ns": 0},
        "cache_hit": {"count": 7, "ns": 250_000_000},
        "cache_miss": {"count": 0, "ns": 0},
    }


@pytest.mark.parametrize(
    ("outcome", "result"),
    [(200, "success"), (202, "accepted"), (QueueFull(), "failure"), (asyncio.CancelledError(), "failure")],
)
async def test_a_request_is_counted_by_what_became_of_it(outcome: int | BaseException, result: str) -> None:
    async def predict(request: web.Request) -> web.Response:
        request[http.MODEL] = "m@1"
        if isinstance(outcome, BaseException):
            raise outcome
        return web.Response(status=outcome)

    registry = CollectorRegistry()
    handler = counting(predict, FrontMetrics(registry))
    with suppress(QueueFull, asyncio.CancelledError):
        await handler(make_mocked_request("POST", "/predict"))
    for name in ("success", "accepted", "failure"):
        counted = registry.get_sample_value("shoal_model_requests_total", {"model": "m@1", "result": name})
        assert counted == (1 if name == result else None)
    last = registry.get_sample_value("shoal_last_answer_timestamp_seconds", {"model": "m@1"})
    assert (last is not None) is (result == "success")


def test_the_statistics_of_two_workers_are_added() -> None:
    one = Statistics(
        [sample("shoal_images_total", 1, model="m@1"), sample("shoal_executions_total", 1, model="m@1", size="1")]
    )
    other = Statistics(
        [
            sample("shoal_images_total", 4, model="m@1"),
            sample("shoal_executions_total", 2, model="m@1", size="1"),
            sample("shoal_executions_total", 1, model="m@1", size="2"),
            sample("shoal_model_requests_total", 3, model="m@1", result="success"),
            sample("shoal_last_answer_timestamp_seconds", 9, model="m@1"),
        ]
    )
    entries = added([{"model_stats": [one.of("m@1")]}, {"model_stats": [other.of("m@1"), other.of("m@2")]}])
    assert [(entry["name"], entry["version"]) for entry in entries] == [("m", "1"), ("m", "2")]
    assert (entries[0]["inference_count"], entries[0]["execution_count"], entries[0]["last_inference"]) == (5, 4, 9000)
    assert entries[0]["inference_stats"]["success"]["count"] == 3
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in entries[0]["batch_stats"]] == [
        (1, 3),
        (2, 1),
    ]


# --- a gateway ---------------------------------------------------------------------------------------------------


@dataclass
class Answering(Recorder):
    """A worker that answers questions with its own name, or with a ``failure``, and keeps the tickets that it got."""

    failure: tuple[int, str] | None = None
    hangs_up: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/load", self._load)
        app.router.add_get("/{path:v2/.*}", self._answer)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.Response:
        assert self.keys is not None
        ticket = Verifier(self.keys, self.member.incarnation).verify(http.bearer(request) or "")
        self.asked.append((request.path, ticket.model))
        if self.hangs_up:
            assert request.transport is not None
            request.transport.close()
        if self.failure is not None:
            status, code = self.failure
            return web.json_response({"error": "told to fail"}, status=status, headers={"Shoal-Code": code})
        counts = [{"name": "digits", "version": key[-1], "inference_count": 1} for key in self.models]
        return web.json_response({"name": "digits", "by": self.name, "versions": ["?"], "model_stats": counts})


async def fetched(d: Door, path: str, method: str = "GET") -> tuple[int, Any, Mapping[str, str]]:
    async with d.session.request(method, d.url.rstrip("/") + path) as response:
        return response.status, await response.json(), response.headers


def answering(name: str, **states: Status) -> Answering:
    return Answering(name, {f"digits@{key[1:]}": load(status=status) for key, status in states.items()})


async def test_a_gateways_index_is_the_best_of_its_workers(tmp_path: Path) -> None:
    workers = (
        answering("a", v1="ready", v2="loading", v3="failed"),
        answering("b", v2="ready", v3="loading", v4="failed"),
    )
    async with door(tmp_path, *workers) as d:
        _, entries, _ = await fetched(d, "/v2/repository/index", "POST")
        assert [(entry["version"], entry["state"]) for entry in entries] == [
            ("1", "READY"),
            ("2", "READY"),
            ("3", "LOADING"),
            ("4", "UNAVAILABLE"),
        ]
        assert (await fetched(d, "/v2/models"))[1] == {"models": ["digits"]}
        for path, status in {
            "/v2/health/ready": 200,
            "/v2/models/digits/ready": 200,
            "/v2/models/digits/versions/2/ready": 200,
            "/v2/models/digits/versions/3/ready": 503,
            "/v2/models/digits/versions/4/ready": 503,
            "/v2/models/digits/versions/5/ready": 404,
            "/v2/models/cat/ready": 404,
            "/v2/models/cat": 404,
            "/v2/models/cat/stats": 404,
            "/v2/models/digits/versions/5/stats": 404,
            "/v2/models/digits/config": 404,
        }.items():
            got, document, _ = await fetched(d, path)
            assert (got, [*document] == ["error"]) == (status, status != 200), path


async def test_a_gateway_with_nothing_ready_is_not_ready(tmp_path: Path) -> None:
    async with door(tmp_path, answering("a", v1="loading")) as d:
        status, _, headers = await fetched(d, "/v2/health/ready")
        assert (status, headers["Shoal-Code"]) == (503, "no_worker")
        assert (await fetched(d, "/v2/health/live"))[0] == 200


async def test_metadata_comes_from_a_worker_and_the_versions_from_the_fleet(tmp_path: Path) -> None:
    one, other = answering("a", v1="ready"), answering("b", v1="loading", v2="ready")
    async with door(tmp_path, one, other) as d:
        _, document, _ = await fetched(d, "/v2/models/digits/versions/2")
        assert (document["by"], document["versions"]) == ("b", ["1", "2"])
        assert other.asked == [("/v2/models/digits/versions/2", "digits@2")]
        _, document, _ = await fetched(d, "/v2/models/digits/versions/1")
        assert (document["by"], one.asked) == ("a", [("/v2/models/digits/versions/1", "digits@1")])


@pytest.mark.parametrize("failure", [(503, "not_ready"), (421, "wrong_worker"), None])
async def test_another_worker_is_asked_when_one_does_not_answer(
    tmp_path: Path, failure: tuple[int, str] | None
) -> None:
    ill = answering("a", v1="ready")
    ill.failure, ill.hangs_up = failure, failure is None
    async with door(tmp_path, ill, answering("b", v1="ready")) as d:
        status, document, _ = await fetched(d, "/v2/models/digits/versions/1")
        assert (status, document["by"]) == (200, "b")
        assert ill.asked


async def test_what_every_worker_refuses_is_refused_as_they_do(tmp_path: Path) -> None:
    workers = answering("a", v1="ready"), answering("b", v1="ready")
    for worker in workers:
        worker.failure = (404, "unknown_model")
    async with door(tmp_path, *workers) as d:
        status, document, headers = await fetched(d, "/v2/models/digits")
        assert (status, document, headers["Shoal-Code"]) == (404, {"error": "told to fail"}, "unknown_model")
        assert sum(len(worker.asked) for worker in workers) == 1


async def test_statistics_are_asked_of_those_who_have_the_version(tmp_path: Path) -> None:
    one, other = answering("a", v1="ready", v2="ready"), answering("b", v1="loading")
    async with door(tmp_path, one, other) as d:
        _, document, _ = await fetched(d, "/v2/models/digits/versions/2/stats")
        assert ([*one.asked], other.asked) == ([("/v2/models/digits/versions/2/stats", "digits@2")], [])
        _, document, _ = await fetched(d, "/v2/models/stats")
        assert [(s["version"], s["inference_count"]) for s in document["model_stats"]] == [("1", 2), ("2", 1)]
        assert other.asked == [("/v2/models/stats", "digits@1")]


async def test_a_sum_that_would_be_wrong_is_an_error(tmp_path: Path) -> None:
    workers = answering("a", v1="ready"), answering("b", v1="ready")
    workers[1].failure = (503, "not_ready")
    async with door(tmp_path, *workers) as d:
        status, document, headers = await fetched(d, "/v2/models/digits/stats")
        assert (status, headers["Shoal-Code"]) == (502, "bad_gateway")
        assert "told to fail" in document["error"]
        workers[1].failure, workers[1].hangs_up = None, True
        assert (await fetched(d, "/v2/models/digits/stats"))[0] == 502
