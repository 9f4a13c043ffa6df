"""One trace from the client's span over gateway and front to the model process; and nothing when nobody asks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import aiohttp
import pytest

from shoal import traces
from tests.clusters import Cluster, eventually, up
from tests.collector import Collector, Span, collecting
from tests.consul_server import ROOT
from tests.photos import photo

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SLOW = "fake?seconds_per_execution=0.2"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Cluster]:
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    arguments = ("--workers", "1", "--model", SLOW, "--worker-setting", f"traces={collector.url}")
    with up(*arguments, environ=environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as cluster:
        yield cluster


async def _predict(cluster: Cluster, path: str, seed: int, trace: str) -> str:
    headers = cluster.headers | {"traceparent": f"00-{trace}-{CALLER}-01", "tracestate": "vendor=1"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{cluster.gateway}{path}", data=photo(seed)) as response,
    ):
        assert response.status == 200
        return response.headers["X-Request-ID"]


def _one(spans: list[Span], service: str, name: str) -> Span:
    (found,) = [span for span in spans if span.service == f"shoal-{service}" and span.name == name]
    return found


@pytest.mark.cluster
async def test_one_trace_from_the_gateway_to_the_model_process(collector: Collector, traced: Cluster) -> None:
    request_id = await _predict(traced, "/predict", 1, TRACE)
    eventually(lambda: len(collector.of(TRACE)) >= 7, within=15, what="every process has sent its spans")
    spans = collector.of(TRACE)
    gateway, sent = _one(spans, "gateway", "POST /predict"), _one(spans, "gateway", "proxy")
    front, execution = _one(spans, "front", "POST /predict"), _one(spans, "model", "execution")
    assert [gateway.parent, sent.parent, front.parent, execution.parent] == [CALLER, gateway.id, sent.id, front.id]
    stages = [span for span in spans if span.parent == front.id and span.service == "shoal-front"]
    assert [span.name for span in sorted(stages, key=lambda span: span.start)] == ["receive", "decode", "wait"]
    for outer, inner in [(gateway, sent), (sent, front), (front, execution), *((front, stage) for stage in stages)]:
        assert outer.start - 5_000_000 <= inner.start <= inner.end <= outer.end + 5_000_000
    assert execution.end - execution.start >= 200_000_000
    assert (execution.attributes["shoal.model"], execution.attributes["shoal.batch_size"]) == ("fake@1", 1)
    assert sent.attributes["shoal.worker"] == "worker1"
    for span in (gateway, front):
        assert span.attributes["shoal.request_id"] == request_id
        assert (span.attributes["http.response.status_code"], span.attributes["shoal.code"]) == (200, "ok")
    assert collector.paths == {"/v1/traces"}


@pytest.mark.cluster
async def test_an_execution_is_in_the_trace_of_each_of_its_jobs(collector: Collector, traced: Cluster) -> None:
    names = [f"{number:032x}" for number in range(1, 9)]
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(names):
            group.create_task(_predict(traced, "/predict?redirect=1" if number % 2 else "/predict", number, name))

    def executions() -> list[Span]:
        return [span for name in names for span in collector.of(name) if span.name == "execution"]

    eventually(lambda: len(executions()) == len(names), within=15, what="each trace has an execution")
    sizes = {span.id: span.attributes["shoal.batch_size"] for span in executions()}
    assert max(sizes.values()) > 1
    assert all(len(span.links) == sizes[span.id] - 1 for span in executions())


@pytest.mark.cluster
async def test_probes_leave_no_trace(collector: Collector, traced: Cluster) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/livez", "/metrics", "/load"):
            async with session.get(f"{traced.worker(0)['internal_url']}{path}") as response:
                assert response.status == 200
    await _predict(traced, "/predict", 3, "f" * 32)
    eventually(lambda: len(collector.of("f" * 32)) >= 7, within=15, what="what came later is here")
    assert {name for name in collector.names if name.startswith("GET")} == set()


@pytest.mark.parametrize("module", ["shoal", "gateway.__main__", "worker.supervisor", "worker.front"])
def test_what_sends_them_is_not_loaded_unasked(module: str) -> None:
    script = f"import {module}, sys; print([n for n in sys.modules if n.startswith('opentelemetry.exporter')])"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


async def test_without_an_endpoint_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(traces.ENDPOINT, raising=False)
    async with traces.tracing("gateway", "g") as tracer:
        assert not tracer.is_on
        with tracer.span("a", "server", carried={"traceparent": f"00-{TRACE}-{CALLER}-01"}):
            assert tracer.headers() == {}
            assert tracer.traceparent() == ""
            tracer.note(failed=True, http_route="/")
            tracer.record("b", 1.0)


async def test_a_caller_that_is_not_sampled_is_not_recorded_and_passed_on(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(traces.ENDPOINT, collector.url)
    async with traces.tracing("gateway", "g") as tracer:
        for flags, name in (("00", "1" * 32), ("01", "2" * 32)):
            with tracer.span("a", "server", carried={"traceparent": f"00-{name}-{CALLER}-{flags}"}):
                passed = tracer.traceparent()
            assert passed.startswith(f"00-{name}-")
            assert passed.endswith(f"-{flags}")
            assert CALLER not in passed or flags == "00"
        with tracer.span("a", "server", carried={"traceparent": "nonsense"}):
            assert len(tracer.traceparent()) == 55
    assert [len(collector.of(n * 32)) for n in "12"] == [0, 1]


async def test_a_collector_that_is_away_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as gone:
        url = gone.url
    monkeypatch.setenv(traces.ENDPOINT, url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with asyncio.timeout(20), traces.tracing("gateway", "g") as tracer:
        with tracer.span("a"):
            assert tracer.traceparent()
