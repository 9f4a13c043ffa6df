"""A cluster that finds itself through a real Consul, which may come and go."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.client import Mode
from tests.clusters import Cluster, eventually, up
from tests.consul_server import ConsulServer, find_consul
from tests.needs import need
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

CHECK_INTERVAL = 1.0


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    binary = find_consul()
    need(binary, "consul is not installed")
    assert binary is not None
    with ConsulServer(binary, tmp_path / "consul") as server:
        yield server


def _states(cluster: Cluster) -> dict[str, str]:
    with cluster.client() as client:
        return {worker["name"]: worker["state"] for worker in client.status()["workers"]}


def _predict(cluster: Cluster) -> None:
    modes: tuple[Mode, ...] = ("direct", "proxy")
    for mode in modes:
        with cluster.client(mode) as client:
            for outcome in client.predict_many([photo(seed) for seed in range(20)]):
                assert outcome.answer is not None, outcome.error
                assert outcome.answer.predictions[0].label == fake_label(photo(outcome.number))


def test_workers_register_and_a_killed_one_leaves(consul: ConsulServer) -> None:
    with up("--workers", "2", "--model", "fake", "--discovery", consul.url) as cluster:
        eventually(lambda: len(_states(cluster)) == 2, within=10, what="both workers in the directory")
        _predict(cluster)
        os.kill(cluster.pids("worker")[0], signal.SIGKILL)
        killed = time.monotonic()
        eventually(lambda: "worker1" not in _states(cluster), within=10, what="out of the directory")
        assert time.monotonic() - killed < CHECK_INTERVAL + 1
        _predict(cluster)


def test_requests_flow_while_consul_is_away_and_when_it_comes_back_empty(consul: ConsulServer) -> None:
    with up("--workers", "2", "--model", "fake", "--discovery", consul.url) as cluster:
        eventually(lambda: len(_states(cluster)) == 2, within=10, what="both workers in the directory")
        consul.kill()
        for _ in range(5):
            _predict(cluster)
            time.sleep(0.5)
        consul.start()  # a development server keeps nothing: it is back empty
        deadline = time.monotonic() + 10
        while len(_registered(consul)) < 2:
            assert time.monotonic() < deadline, "not registered again within 10 s"
            assert len(_states(cluster)) == 2, "dropped, though its own polls succeed"
            _predict(cluster)


def _registered(consul: ConsulServer) -> list[object]:
    found: list[object] = consul.call("GET", "/v1/health/service/shoal-worker?passing=true")
    return found
