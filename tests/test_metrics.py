"""What ``/metrics`` says of a node at this moment, and that the catalogue follows Prometheus's rules for names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from shoal import metrics
from shoal.metric_catalogue import catalogue
from shoal.wire import ModelState, NodeState
from tests.nodes import CACHING, fake, node
from tests.photos import photo
from tests.redis_servers import RedisServer
from tests.scraping import samples, total
from worker import exposition
from worker.load_reports import LoadReports

UNITS = ("seconds", "bytes", "ratio")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer("valkey", tmp_path) as running:
        yield running


async def test_what_is_gone_has_no_sample(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        card = fake().card
        reports = LoadReports(on.queue, Counter(), worker="w", incarnation="i", public_url=None, capacity=7)

        async def text(state: NodeState) -> str:
            reports.tell(state)
            response = await exposition.response(CollectorRegistry(), reports, on.queue)
            assert isinstance(response.body, bytes)
            return response.body.decode()

        models = {"fake@1": ModelState("ready", card, 2, 0.25), "fake@2": ModelState("loading")}
        found = samples(await text(NodeState(draining=True, models=models, pids={"front": [os.getpid(), 4_000_000]})))
        assert total(found, "shoal_model_ready", model="fake@1") == 1
        assert ("shoal_model_ready", frozenset({("model", "fake@2")})) in found
        assert total(found, "shoal_model_processes", model="fake@1") == 2
        assert total(found, "shoal_image_cost_seconds", model="fake@1") == 0.25
        assert total(found, "shoal_queue_capacity", model="fake@1") == 7
        assert total(found, "shoal_draining") == 1
        assert total(found, "shoal_processes", role="front") == 2
        assert total(found, "shoal_resident_memory_bytes", role="front") > 1 << 20
        assert total(found, "shoal_build_info") == 1
        assert "fake@2" not in await text(NodeState(models={"fake@1": models["fake@1"]}))
        assert "shoal_model_ready{" not in await text(NodeState())


async def test_what_waits_is_seen_by_priority(server: RedisServer) -> None:
    async with node(server, fake(), executing=False, **CACHING) as on:
        assert (await on.queue.depth("fake@1")) == 0
        status, document, _ = await on.post("/predict", data=photo(1), headers={"Shoal-Timeout-Ms": "1"})
        assert (status, document["error"]["code"]) == (504, "deadline_exceeded")
        async with on.session.get(f"{on.urls[0]}/metrics") as response:
            found = samples(await response.text())
    depths = {dict(labels)["priority"] for (name, labels) in found if name == "shoal_queue_depth"}
    assert depths == {"interactive", "bulk"}
    assert total(found, "shoal_requests_total", code="deadline_exceeded") == 1
    assert total(found, "shoal_upload_bytes_total", way="direct") == len(photo(1))


def test_the_names_follow_the_rules() -> None:
    for one in catalogue():
        assert re.fullmatch("shoal_[a-z]+(_[a-z]+)*", one.name), one
        assert (one.kind == "counter") == one.name.endswith("_total"), one
        assert (one.kind == "info") == one.name.endswith("_info"), one
        assert one.help.endswith("."), one
        named = one.name.removesuffix("_total").split("_")
        assert [unit for unit in UNITS if unit in named[:-1]] == [], one


def test_no_two_services_say_the_same_of_different_things() -> None:
    meanings: dict[str, set[tuple[str, str]]] = {}
    for one in catalogue():
        meanings.setdefault(one.name, set()).add((one.kind, one.help))
    assert [name for name, its in meanings.items() if len(its) > 1] == []


def test_the_parser_reads_values_that_need_escaping() -> None:
    registry = CollectorRegistry()
    counts = metrics.GatewayMetrics(registry)
    counts.requests.labels('/a"b\\c\nd', "m@1", "ok").inc()
    text = metrics.exposition(registry).decode()
    assert text.endswith("\n")
    labels = [s.labels for f in text_string_to_metric_families(text) for s in f.samples if s.name.endswith("ts_total")]
    assert {"path": '/a"b\\c\nd', "model": "m@1", "code": "ok"} in labels
