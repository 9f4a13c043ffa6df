"""When a child counts as hung, and a model as stalled; and that one that is hung is replaced."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shoal.keeper import Keeper, keeping
from shoal.metrics import SupervisorMetrics
from shoal.processes import Child
from tests.clusters import eventually_async
from worker.queue import Queue
from worker.vitals import HEARTBEAT, ModelVitals, Vitals
from worker.watch import TICK, Watch


def test_a_child_may_be_silent_up_to_its_limit() -> None:
    vitals = Vitals(limit=3)
    for _ in range(3):
        vitals.tick(TICK)
        assert not vitals.is_hung
    vitals.tick(TICK)
    assert vitals.is_hung
    vitals.spoke()
    assert not vitals.is_hung


def report(executions: int, *, lasting: float = 0.0, longest: float = 0.1) -> dict[str, Any]:
    return {"executions": executions, "lasting": lasting, "longest": longest}


def model(*reports: dict[str, Any], limit: float = 5.0) -> ModelVitals:
    """A model process that reports once in each tick."""
    vitals = ModelVitals(limit)
    for each in reports:
        vitals.tick(TICK)
        vitals.executed(each)
    return vitals


@pytest.mark.parametrize(
    ("vitals", "hung", "stalled"),
    [
        (model(*(report(n) for n in range(1, 20))), False, False),
        (model(*(report(1) for _ in range(5))), False, False),  # idle, and the next heartbeat is on its way
        (model(*(report(1) for _ in range(9))), False, True),  # it lives, and completes nothing, not even heartbeats
        (model(report(1), *(report(1, lasting=n) for n in range(1, 5))), False, False),
        (model(report(1), *(report(1, lasting=n) for n in range(1, 8))), True, True),  # one execution without an end
        (model(report(1, longest=4), *(report(1, lasting=n, longest=4) for n in range(1, 12))), False, False),
        (model(report(1, longest=4), *(report(1, lasting=n, longest=4) for n in range(1, 43))), True, True),
    ],
)
def test_a_model_process(vitals: ModelVitals, hung: bool, stalled: bool) -> None:
    assert (vitals.is_hung, vitals.is_stalled) == (hung, stalled)


def test_an_execution_ends_the_wait_for_a_heartbeat() -> None:
    vitals = model(*(report(1) for _ in range(4)))
    assert vitals.idle >= HEARTBEAT
    vitals.executed(report(2))
    assert vitals.idle == 0


async def test_a_child_that_is_hung_is_killed_and_another_started() -> None:
    registry = CollectorRegistry()
    started: list[Child] = []
    ends: list[int | None] = []

    async def start() -> Child:
        started.append(await Child.start("sleeper", ["sleep", "60"]))
        return started[-1]

    async def buried(child: Child) -> None:
        ends.append(child.returncode)

    async def count(number: int) -> bool:
        return len(started) == number

    keeper = Keeper("sleeper", start, heard=lambda child, event: None, buried=buried, stop_timeout=5)
    async with Queue.connect("/nowhere") as queue, keeping(keeper):
        watch = Watch(queue, None, SupervisorMetrics(registry), hang_timeout=3)
        await eventually_async(lambda: count(1), within=5, what="a child")
        watch.check("front", keeper, None)
        watch.check("front", keeper, Vitals(limit=3, silent=3))
        assert not ends
        watch.check("front", keeper, Vitals(limit=3, silent=4))
        await eventually_async(lambda: count(2), within=5, what="another child")
    assert ends == [-signal.SIGKILL, -signal.SIGTERM]
    assert registry.get_sample_value("shoal_hung_processes_total", {"role": "front"}) == 1
