"""The scale signal: rates over a window, the arithmetic of the suggestion, and that it does not flap."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import Member
from gateway.known_worker import Worker
from gateway.scaling import ScaleSignal, desired
from gateway.throughput import Rate, Refusals, Throughput
from shoal.errors import QueueFull
from shoal.wire import LoadReport, ModelLoad, Served, Status
from tests.test_fleet import load
from tests.test_gateway import Recorder, both, door

Counts = tuple[float, int, float]


def report(
    measured: float, images: int, busy: float, *, incarnation: str = "i", depth: int = 0, status: Status = "ready"
) -> LoadReport:
    digits = ModelLoad(
        status, queue_depth=depth, capacity=100, seconds_per_image=0.1, processes=1, images=images, busy=busy
    )
    return LoadReport("w", incarnation, measured=measured, models={"digits@1": digits})


@pytest.mark.parametrize(
    ("counts", "rate"),
    [
        ([], Rate()),
        ([(5, 100, 2)], Rate()),  # one report says nothing of a rate
        ([(5, 100, 2), (5.5, 900, 2.5)], Rate()),  # too short a time
        ([(5, 100, 2), (15, 150, 7)], Rate(5, 0.5)),
        ([(5, 100, 2), (5.1, 101, 2), (15, 150, 7)], Rate(5, 0.5)),
        ([(0, 0, 0), (70, 100, 7), (80, 200, 12)], Rate(10, 0.5)),  # what is older than the window does not count
        ([(5, 100, 2), (15, 20, 1)], Rate(2, 0.1)),  # a new supervisor counts from nought
        ([(5, 0, 0), (15, 10, 30)], Rate(1, 1.0)),  # never busier than all the time
    ],
)
def test_rates_of_a_worker(counts: list[Counts], rate: Rate) -> None:
    throughput = Throughput()
    for measured, images, busy in counts:
        throughput.add(report(measured, images, busy))
    assert throughput.rate("digits@1") == rate


def test_another_incarnation_begins_anew() -> None:
    throughput = Throughput()
    throughput.add(report(5, 100, 2))
    throughput.add(report(15, 110, 3, incarnation="j"))
    assert throughput.rate("digits@1") == Rate()
    throughput.add(report(25, 120, 4, incarnation="j"))
    assert throughput.rate("digits@1") == Rate(1, 0.1)


def test_a_model_that_came_later_is_measured_from_then_on() -> None:
    throughput = Throughput()
    throughput.add(LoadReport("w", "i", measured=0))
    throughput.add(report(10, 0, 0))
    throughput.add(report(12, 20, 1))
    assert throughput.rate("digits@1") == Rate(10, 0.5)
    assert throughput.rate("other@1") == Rate()


def test_a_model_that_has_traffic_as_soon_as_it_comes_is_measured_from_its_first_report() -> None:
    throughput = Throughput()
    throughput.add(LoadReport("w", "i", measured=0))
    throughput.add(report(1, 0, 0))  # sooner after the last report than most are kept
    throughput.add(report(2, 40, 2))
    throughput.add(report(5, 40, 2))
    assert throughput.rate("digits@1") == Rate(10, 0.5)


def test_two_processes_are_busy_half_each() -> None:
    throughput = Throughput()
    for seen in (report(0, 0, 0), report(10, 50, 10)):
        models = {"digits@1": msgspec.structs.replace(seen.models["digits@1"], processes=2)}
        throughput.add(msgspec.structs.replace(seen, models=models))
    assert throughput.rate("digits@1") == Rate(5, 0.5)


def test_how_long_answers_took() -> None:
    throughput = Throughput()
    for measured, served in ((0.0, Served(10, 5.0)), (10.0, Served(30, 6.0)), (20.0, Served())):
        throughput.add(msgspec.structs.replace(report(measured, 0, 0), served={"digits@1": served}))
        if measured == 10:
            assert throughput.rate("digits@1").seconds == 0.05
    assert throughput.rate("digits@1").seconds == 0  # counted anew, and nothing yet


def test_refusals_are_forgotten_after_the_window() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    with pytest.raises(QueueFull), refusals.noted("digits"):
        raise QueueFull
    assert refusals.per_second() == {"digits": 1.0}
    now = 15.0
    refusals.add("digits")
    refusals.add("other")
    assert refusals.per_second() == {"digits": 2 / 15, "other": 1 / 15}
    now = 40.0
    assert refusals.per_second() == {"digits": 1 / 30, "other": 1 / 30}
    now = 46.0
    assert refusals.per_second() == {}


@pytest.mark.parametrize(
    ("need", "before", "expected"),
    [
        (0.0, 0, 1),  # never none: nobody would be there to measure
        (0.0, 1, 1),
        (0.0, 9, 1),
        (1.0, 1, 1),
        (1.1, 1, 1),  # a tenth past it, and not more
        (1.11, 1, 2),
        (1.0, 2, 2),  # 1.1 would be too many for one
        (0.9, 2, 1),
        (2.9, 3, 3),
        (3.29, 3, 3),
        (3.31, 3, 4),
        (3.0, 4, 4),
        (2.7, 4, 3),
        (10.0, 3, 10),
        (30.0, 2, 28),  # the fewest that are within the tolerance: the next look corrects it
        (3.0, 40, 4),
    ],
)
def test_desired(need: float, before: int, expected: int) -> None:
    assert desired(need, before) == expected


@pytest.mark.parametrize(("need", "before", "expected"), [(0.0, 5, 5), (0.0, 0, 1), (3.0, 5, 5), (9.0, 5, 9)])
def test_what_was_measured_for_a_moment_takes_nobody_away(need: float, before: int, expected: int) -> None:
    assert desired(need, before, 9.9) == expected


@given(
    need=st.floats(0.01, 500),
    before=st.integers(0, 500),
    jitter=st.lists(st.floats(-0.09, 0.09), min_size=1, max_size=30),
)
def test_a_load_that_only_jitters_moves_the_suggestion_one_way(need: float, before: int, jitter: list[float]) -> None:
    said = [desired(need, before)]
    for share in jitter:
        said.append(desired(need * (1 + share), said[-1]))
    steps = [after - former for former, after in pairwise(said)]
    assert all(step >= 0 for step in steps) or all(step <= 0 for step in steps)


@given(need=st.floats(0, 500), before=st.integers(0, 500))
def test_the_same_need_again_changes_nothing(need: float, before: int) -> None:
    once = desired(need, before)
    assert desired(need, once) == once
    assert once >= need / 1.1 - 1e-6


def worker(name: str, images: int, busy: float, *, depth: int = 0, status: Status = "ready") -> Worker:
    """One that has reported twice, ten seconds apart."""
    known = Worker(Member("worker", name, name, f"http://{name}", None))
    for measured, count, seconds in ((0.0, 0, 0.0), (10.0, images, busy)):
        known.settle(report(measured, count, seconds, incarnation=name, depth=depth, status=status))
    return known


def test_what_an_autoscaler_is_told() -> None:
    workers = [worker("a", 90, 9.0, depth=30), worker("b", 70, 7.0), worker("c", 0, 0.0, status="loading")]
    said = ScaleSignal().document(workers, {"digits": 5.0}, 0.7)
    assert said["models"]["digits"] == {
        "workers": 2,
        "desired": 3,
        "utilisation": 0.8,
        "images_per_second": 16.0,
        "queue_depth": 30,
        "expected_wait": 0.0,
        "refusals_per_second": 5.0,
        "need": {"busy": 1.6, "refused": 0.5, "waiting": 0.1, "workers": 3.1429},
        "reasons": [
            "images keep 1.60 of 2 workers busy",
            "what was refused would keep 0.50 more busy",
            "what waits would keep 0.10 more busy for 30 s",
            "at 70% each that needs 3.14 workers",
            "3 is near enough to that, and nearer to the 2 before",
        ],
    }
    assert said["total"] == said["models"]["digits"]
    assert (said["target"], said["window_seconds"]) == (0.7, 30.0)


def test_nobody_there() -> None:
    said = ScaleSignal().document([], {}, 0.7)
    assert (said["models"], said["total"]["desired"], said["total"]["utilisation"]) == ({}, 1, 0.0)
    assert "no worker is ready" in said["total"]["reasons"]


def test_a_gateway_that_has_just_started_suggests_who_is_there() -> None:
    fresh = []
    for name in "abcd":
        fresh.append(Worker(Member("worker", name, name, f"http://{name}", None)))
        fresh[-1].settle(report(0.0, 0, 0.0, incarnation=name))
    signal = ScaleSignal()
    said = signal.document(fresh, {}, 0.7)["total"]
    assert (said["desired"], said["reasons"][-1]) == (4, "measured for 0 s only, so nobody is taken away")
    for known in fresh:
        known.settle(report(10.0, 0, 0.0, incarnation=known.incarnation))
    assert signal.document(fresh, {}, 0.7)["total"]["desired"] == 1


def test_losing_sight_of_all_workers_takes_nobody_away() -> None:
    signal, busy = ScaleSignal(), [worker(name, 90, 9.0) for name in "abc"]
    assert signal.document(busy, {}, 0.7)["total"]["desired"] == 4
    assert signal.document([], {}, 0.7)["total"]["desired"] == 4


def test_a_version_without_traffic_hides_no_wait() -> None:
    known = Worker(Member("worker", "a", "a", "http://a", None))
    seen = report(0.0, 0, 0.0, incarnation="a", depth=20)
    idle = msgspec.structs.replace(seen.models["digits@1"], queue_depth=0)
    known.settle(msgspec.structs.replace(seen, models={**seen.models, "digits@2": idle}))
    assert ScaleSignal().document([known], {}, 0.7)["models"]["digits"]["expected_wait"] == 2.0


def test_models_that_share_a_worker_keep_it_busy_together() -> None:
    shared = Worker(Member("worker", "a", "a", "http://a", None))
    for measured, busy in ((0.0, 0.0), (10.0, 6.0)):
        seen = report(measured, int(busy * 10), busy)
        models = {**seen.models, "cats@1": seen.models["digits@1"], "cats@2": seen.models["digits@1"]}
        shared.settle(msgspec.structs.replace(seen, models=models))
    said = ScaleSignal().document([shared], {}, 0.5)
    assert (said["models"]["digits"]["utilisation"], said["models"]["cats"]["utilisation"]) == (0.6, 1.0)
    assert said["total"]["utilisation"] == 1.0


def test_each_target_has_its_own_memory() -> None:
    signal, busy = ScaleSignal(), [worker("a", 75, 7.5)]
    assert signal.document(busy, {}, 0.7)["total"]["desired"] == 1
    assert signal.document(busy, {}, 0.35)["total"]["desired"] == 2
    assert signal.document(busy, {}, 0.7)["total"]["desired"] == 1


async def test_the_gateway_answers_it(tmp_path: Path) -> None:
    full = Recorder("a", {"digits@1": load(5, 0.1, capacity=5)})
    async with door(tmp_path, full) as d:
        assert (await d.predict()).status == 429
        assert (await d.lookup())["error"]["code"] == "queue_full"
        async with d.session.get(f"{d.url}v1/scale-signal?target=0.5") as answer:
            said = await answer.json()
        async with d.session.get(f"{d.url}status") as answer:
            status = await answer.json()
        async with d.session.get(f"{d.url}v1/scale-signal?target=7") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_option")
        async with d.session.get(f"{d.url}v1/scale-signal?target=0.50000001") as answer:
            assert (await answer.json())["target"] == 0.5, "each target is remembered, so there are few"
    assert said["target"] == 0.5
    assert said["models"]["digits"]["refusals_per_second"] == status["refusals_per_second"]["digits"] > 0
    assert said["models"]["digits"]["queue_depth"] == 5
    assert said["models"]["digits"]["expected_wait"] == 0.5
    assert {"images_per_second", "utilisation", "expected_wait"} < status["workers"][0]["models"]["digits@1"].keys()


async def test_what_a_worker_refuses_counts_as_far_as_it_is_for_want_of_room(tmp_path: Path) -> None:
    async with door(tmp_path, both("a")) as d:
        for status, expected in ((503, False), (429, True)):
            d.workers[0].refuses = status
            assert (await d.predict()).status == status
            async with d.session.get(f"{d.url}v1/scale-signal") as answer:
                assert ((await answer.json())["models"]["digits"]["refusals_per_second"] > 0) is expected
