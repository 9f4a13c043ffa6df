"""When a child counts as hung, and a model as stalled."""

from __future__ import annotations

from typing import Any

import pytest

from worker.vitals import HEARTBEAT, ModelVitals, Vitals

TICK = 1.0


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
