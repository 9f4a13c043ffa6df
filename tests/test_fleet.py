"""The fleet as a gateway sees it: who is chosen, who is left out, and who is kept although discovery lost it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from discovery import Member
from discovery.latest import Latest
from discovery.publications import Publications
from gateway.balancers import BALANCERS
from gateway.fleet import Choice, Fleet, Wish
from gateway.known_worker import OnTheWay, Worker
from shoal.errors import NoWorker, QueueFull, UnknownModel
from shoal.metrics import GatewayMetrics
from shoal.wire import LoadReport, ModelLoad, Priority, Status
from tests.clusters import eventually_async

INTERVAL = 0.03


def load(depth: int = 0, seconds: float = 0.01, *, capacity: int = 10, status: Status = "ready") -> ModelLoad:
    free = max(0, capacity - depth)
    return ModelLoad(
        status, queue_depth=depth, capacity=capacity, slots=free, bulk_slots=free // 2, seconds_per_image=seconds
    )


@dataclass
class Node:
    """A worker's internal listener, whose load report a test writes. ``ill`` answers 500."""

    name: str
    models: Mapping[str, ModelLoad]
    draining: bool = False
    ill: bool = False
    public: bool = True
    polls: int = 0
    url: str = ""
    runner: web.AppRunner | None = None
    answer: Callable[[web.Request], Awaitable[web.Response]] | None = None

    @property
    def member(self) -> Member:
        return Member("worker", self.name, f"{self.name}-1", self.url, self.url if self.public else None)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/load", self.answer or self._load)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self.runner:
            await self.runner.cleanup()

    async def polled(self) -> None:
        """Wait until what was written here has reached the fleet."""
        seen = self.polls
        await eventually_async(lambda: _true(self.polls > seen + 1), within=5, what="a poll")

    async def _load(self, _: web.Request) -> web.Response:
        self.polls += 1
        report = LoadReport(
            self.name, f"{self.name}-1", measured=time.monotonic(), draining=self.draining, models=dict(self.models)
        )
        return web.Response(body=msgspec.json.encode(report), status=500 if self.ill else 200)


async def _true(value: bool) -> bool:
    return value


@dataclass
class Scene:
    """A fleet, the nodes in it, and the directory that it follows."""

    fleet: Fleet
    watch: Latest
    registry: CollectorRegistry
    nodes: Mapping[str, Node]

    def chosen(self, count: int = 1, model: str = "digits", version: str | None = None, **options: object) -> list[str]:
        """Whom ``count`` requests in a row go to, each reserved as a gateway does."""
        names = []
        for _ in range(count):
            choice = self.fleet.choose(Wish(model, version, **options))  # type: ignore[arg-type]
            choice.worker.reserve(choice.key, 1)
            names.append(choice.name)
        return names

    def names(self) -> set[str]:
        return {worker.member.name for worker in self.fleet}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await eventually_async(lambda: _true(condition()), within=5, what=what)


@asynccontextmanager
async def scene(
    *nodes: Node,
    balancer: str = "least_expected_wait",
    interval: float = INTERVAL,
    watch: Latest | None = None,
    publications: Publications | None = None,
) -> AsyncIterator[Scene]:
    watch = watch or Latest("worker")
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.stop)
        watch.publish(node.member for node in nodes)
        following = Fleet.follow(
            watch,
            BALANCERS[balancer](),
            name="g",
            interval=interval,
            metrics=GatewayMetrics(registry),
            publications=publications,
        )
        fleet = await stack.enter_async_context(following)
        yield Scene(fleet, watch, registry, {node.name: node for node in nodes})


def digits(name: str, depth: int = 0, seconds: float = 0.01, *, capacity: int = 10, status: Status = "ready") -> Node:
    return Node(name, {"digits@1": load(depth, seconds, capacity=capacity, status=status)})


@dataclass(frozen=True)
class Waits:
    """A candidate for a balancer."""

    name: str
    expected_wait: float


@pytest.mark.parametrize(
    ("balancer", "waits", "turns"),
    [
        ("least_expected_wait", {"a": 0.3, "b": 0.1, "c": 0.2}, ["b", "b", "b"]),
        ("least_expected_wait", {"a": 0.1, "b": 0.1, "c": 0.2}, ["b", "a", "b", "a"]),
        ("least_expected_wait", {"a": 0.0, "b": 0.0, "c": 0.0}, ["b", "c", "a", "b", "c", "a"]),
        ("least_expected_wait", {"a": 9.0}, ["a", "a"]),
        ("round_robin", {"a": 9.0, "b": 0.1, "c": 5.0}, ["b", "c", "a", "b"]),
        ("round_robin", {"a": 9.0}, ["a", "a"]),
    ],
)
def test_balancers(balancer: str, waits: Mapping[str, float], turns: Sequence[str]) -> None:
    candidates = [Waits(name, wait) for name, wait in waits.items()]
    chooser = BALANCERS[balancer]()
    chosen = [chooser.choose(candidates).name for _ in turns]
    if balancer == "least_expected_wait" and len(set(waits.values())) < len(waits):
        assert sorted(chosen) == sorted(turns)  # among equals each in turn, whichever comes first
    else:
        assert chosen == list(turns)


CHOICES = {
    "an idle one before a busy one": ([digits("a", 5), digits("b", 0)], {"b"}),
    "a fast one with a longer queue": ([digits("a", 2, 0.1), digits("b", 8, 0.001)], {"b"}),
    "only one has room": ([digits("a", 10, 0.0001), digits("b", 9, 5.0)], {"b"}),
    "only one serves the model": ([Node("a", {"other@1": load()}), digits("b", 9)], {"b"}),
    "each with the highest version that it has": (
        [Node("a", {"digits@9": load(9)}), Node("b", {"digits@10": load()})],
        {"b"},
    ),
    "also where that is an older one": ([Node("a", {"digits@9": load()}), Node("b", {"digits@10": load(9)})], {"a"}),
    "a draining one is left out": ([Node("a", {"digits@1": load()}, draining=True), digits("b", 9)], {"b"}),
    "one that answers 500 is left out": ([Node("a", {"digits@1": load()}, ill=True), digits("b", 9)], {"b"}),
    "a loading one is left out": ([digits("a", status="loading"), digits("b", 9)], {"b"}),
    "a failed one is left out": ([digits("a", status="failed"), digits("b", 9)], {"b"}),
    "a stopping one is left out": ([digits("a", status="stopping"), digits("b", 9)], {"b"}),
}


@pytest.mark.parametrize("case", CHOICES)
async def test_who_is_chosen(case: str) -> None:
    nodes, expected = CHOICES[case]
    async with scene(*nodes, interval=30) as s:
        assert set(s.chosen()) == expected


async def test_what_was_sent_counts_until_the_next_report() -> None:
    async with scene(digits("a", 0, 0.01), digits("b", 3, 0.01), interval=30) as s:
        assert s.chosen(3) == ["a", "a", "a"]
        assert sorted(s.chosen(4)) == ["a", "a", "b", "b"]
        assert {w.member.name: waiting(w) for w in s.fleet} == {"a": 5, "b": 5}


def waiting(worker: Worker, priority: Priority = "interactive") -> int:
    """The images before one that is sent now."""
    return round(worker.expected_wait("digits@1", priority) / 0.01)


def said(measured: float, depth: int = 0, *, arrived: int = 0, incarnation: str = "a-1") -> LoadReport:
    state = msgspec.structs.replace(load(depth), arrived=arrived)
    return LoadReport("a", incarnation, measured=measured, models={"digits@1": state})


def worker_that(*reports: LoadReport) -> Worker:
    worker = Worker(Member("worker", "a", "a-1", "http://a"))
    for report in reports:
        worker.settle(report)
    return worker


def test_of_two_reports_the_later_one_counts_however_they_come() -> None:
    assert waiting(worker_that(said(1, 7), said(2, 3))) == 3
    assert waiting(worker_that(said(2, 3), said(1, 7))) == 3
    assert waiting(worker_that(said(2, 3), said(1, 7, incarnation="a-2"))) == 7


def test_what_is_on_its_way_counts_until_it_has_arrived() -> None:
    worker = worker_that(said(1, arrived=10))
    worker.reserve("digits@1", 4)
    worker.settle(said(2, 3, arrived=13))
    assert waiting(worker) == 3 + 1
    worker.settle(said(3, 4, arrived=14))
    assert waiting(worker) == 4


def test_a_gateway_sends_no_more_than_its_slots() -> None:
    worker = worker_that(said(1, 6))  # of 10
    for _ in range(4):
        assert worker.room("digits@1", "interactive") > 0
        worker.reserve("digits@1", 1)
    assert worker.room("digits@1", "interactive") <= 0
    worker.settle(said(2, 9, arrived=3))  # one of ours is still on its way to the last place
    assert worker.room("digits@1", "interactive") <= 0


def test_interactive_images_do_not_wait_for_bulk_ones() -> None:
    state = msgspec.structs.replace(load(9, capacity=20), bulk_depth=7)
    worker = worker_that(LoadReport("a", "a-1", models={"digits@1": state}))
    assert (waiting(worker), waiting(worker, "bulk")) == (2, 9)
    worker.reserve("digits@1", 5)
    assert worker.room("digits@1", "interactive") > 0 >= worker.room("digits@1", "bulk")


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([("add", 3)], 3),
        ([("add", 3), ("arrived", 2)], 1),
        ([("add", 2), ("add", 2), ("arrived", 3)], 1),
        ([("add", 1), ("arrived", 5)], 0),  # others arrived that we had given up
        ([("arrived", 5), ("add", 3), ("arrived", 7)], 1),
        ([("arrived", 5), ("add", 3), ("arrived", 1)], 2),  # a new queue counts from nothing
        ([("arrived", 5), ("add", 3), ("arrived", 5)], 3),
    ],
)
def test_on_the_way(steps: list[tuple[str, int]], count: int) -> None:
    way = OnTheWay()
    for step, number in steps:
        way.add(number) if step == "add" else way.settle(number)
    assert way.count == count


def test_what_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.known_worker._ON_THE_WAY_SECONDS", -1.0)
    way = OnTheWay()
    way.add(3)
    assert way.count == 0


def test_an_ejection_is_longer_each_time_until_a_request_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    worker = worker_that(said(1))

    def breaks() -> float:
        """How long the worker is out."""
        nonlocal now
        assert worker.broke()
        assert not worker.broke()  # the other requests that break with it are the same incident
        began = now
        while worker.state == "ejected":
            now += 0.25
            worker.settle(said(now))
        return now - began

    assert [breaks() for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    worker.answered()
    assert breaks() == 0.5


def test_a_silent_worker_is_out_until_it_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    worker = worker_that(said(1))
    now = 101.9
    before = worker.state
    now = 102.1
    silent = worker.state
    worker.settle(said(2))
    assert (before, silent, worker.state) == ("ready", "silent", "ready")


async def test_requests_to_a_worker_that_falls_silent_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_that(said(1))

    async def send() -> bool:
        with worker.sending() as scope:
            try:
                async with scope:
                    await asyncio.sleep(20)
            except TimeoutError:
                return scope.expired()
        return False

    sending = asyncio.create_task(send())
    await asyncio.sleep(0)
    monkeypatch.setattr("gateway.known_worker._FRESH_SECONDS", 0.0)
    worker.missed()  # it may have been the gateway that was paused
    await asyncio.sleep(0.01)
    assert not sending.done()
    worker.missed()
    async with asyncio.timeout(5):
        assert await sending


async def test_half_of_the_workers_may_be_ejected_and_no_more() -> None:
    async with scene(*(digits(name) for name in "abcd")) as s:

        async def after(name: str) -> set[str]:
            next(w for w in s.fleet if w.member.name == name).broke()
            await s.nodes[name].polled()
            return {choice.name for choice in s.fleet.open_choices(Wish("digits"))}

        assert [await after("a"), await after("b")] == [{"b", "c", "d"}, {"c", "d"}]
        assert await after("c") == {"a", "b", "c", "d"}
        assert s.registry.get_sample_value("shoal_panics_total") == 1


async def test_an_ejected_worker_that_does_not_answer_either_is_not_trusted() -> None:
    async with scene(digits("a"), interval=30) as s:
        next(iter(s.fleet)).broke()
        with pytest.raises(NoWorker):
            s.chosen()


async def test_who_cannot_be_answered_in_time_is_refused_at_once() -> None:
    async with scene(digits("a", 5, 1.0), interval=30) as s:
        assert s.chosen(seconds=8.0) == ["a"]
        with pytest.raises(QueueFull):
            s.chosen(seconds=6.0)


async def test_workers_take_turns() -> None:
    async with scene(digits("a", 5), digits("b"), digits("c", 1), balancer="round_robin", interval=30) as s:
        first = s.chosen(6)
        assert sorted(first[:3]) == sorted(first[3:]) == ["a", "b", "c"]


async def test_exclusion_is_a_preference() -> None:
    async with scene(digits("a", 0), digits("b", 5), interval=30) as s:
        assert s.chosen(exclude=frozenset({"a-1"})) == ["b"]
        assert s.chosen(exclude=frozenset({"a-1", "b-1"})) == ["a"]
        assert s.chosen(exclude=frozenset({"nobody"})) == ["a"]


async def test_clients_are_sent_only_where_they_can_go() -> None:
    node = digits("a")
    node.public = False
    async with scene(node, digits("b", 9), interval=30) as s:
        assert (s.chosen(public=True), s.chosen(public=False)) == (["b"], ["a"])


async def test_when_all_are_full_the_shortest_wait_is_told() -> None:
    async with scene(digits("a", 10, 0.5), digits("b", 8, 0.25), interval=30) as s:
        assert s.chosen(2) == ["b", "b"]
        with pytest.raises(QueueFull) as caught:
            s.chosen()
        assert caught.value.retry_after == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("model", "version", "error"),
    [
        ("digits", None, None),
        ("digits", "1", None),
        ("digits", "2", UnknownModel),
        ("faces", None, UnknownModel),
        ("digit", None, UnknownModel),
        ("digits@1", None, UnknownModel),
        ("", None, UnknownModel),
    ],
)
async def test_an_unknown_model_is_not_a_missing_worker(
    model: str, version: str | None, error: type[Exception] | None
) -> None:
    async with scene(digits("a"), interval=30) as s:
        assert s.fleet.default_model() == "digits"
        if error is None:
            assert s.chosen(model=model, version=version) == ["a"]
        else:
            with pytest.raises(error):
                s.chosen(model=model, version=version)


async def test_without_workers_no_model_is_unknown() -> None:
    async with scene() as s:
        assert repr(s.fleet) == "<Fleet 0 of 0 workers ready>"
        with pytest.raises(NoWorker):
            s.chosen(model="anything")
        with pytest.raises(NoWorker):
            s.fleet.default_model()


async def test_a_model_stays_known_when_its_last_worker_is_gone() -> None:
    async with scene(digits("a")) as s:
        s.nodes["a"].ill = True
        await s.until(lambda: [w.state for w in s.fleet] == ["unreachable"], "a unreachable")
        with pytest.raises(NoWorker):
            s.chosen()


async def test_the_highest_version_is_that_of_numbers() -> None:
    async with scene(
        Node("a", {f"digits@{version}": load() for version in ("9", "beta", "10", "1")}), interval=30
    ) as s:
        assert s.fleet.choose(Wish("digits")).key == "digits@10"


async def test_a_version_may_be_asked_for() -> None:
    both = {"digits@1": load(), "digits@2": load()}
    async with scene(Node("a", both), Node("b", {"digits@1": load(5)}), interval=30) as s:
        assert s.fleet.choose(Wish("digits")).key == "digits@2"
        assert s.fleet.choose(Wish("digits", "1")).key == "digits@1"
        assert s.chosen(version="1", exclude=frozenset({"a-1"})) == ["b"]


async def test_a_dead_worker_is_left_out_at_once_and_back_when_it_answers() -> None:
    async with scene(digits("a"), digits("b", 5)) as s:
        assert s.chosen() == ["a"]
        next(w for w in s.fleet if w.member.name == "a").refused()
        assert s.chosen() == ["b"]
        await s.nodes["a"].polled()
        assert s.chosen() == ["a"]


async def test_a_vanished_worker_is_kept_while_it_answers() -> None:
    async with scene(digits("a"), digits("b", 5)) as s:
        # When discovery comes back empty
        s.watch.publish([])
        await s.until(lambda: all(w.vanished is not None for w in s.fleet), "the new directory")
        # Then nobody is lost
        await s.nodes["a"].polled()
        assert (s.names(), s.chosen()) == ({"a", "b"}, ["a"])
        # And when one does not answer either, it is
        await s.nodes["a"].stop()
        await s.until(lambda: s.names() == {"b"}, "a dropped")
        assert s.chosen() == ["b"]
        # And the other is as before when it is listed again
        s.watch.publish([s.nodes["b"].member])
        await s.until(lambda: [w.vanished for w in s.fleet] == [None], "b listed")


async def test_no_change_of_the_directory_is_missed_while_the_first_polls_run() -> None:
    early, late = digits("a"), digits("b")
    await late.start()
    watch = Latest("worker")

    async def publish_late(_: web.Request) -> web.Response:
        watch.publish([late.member])
        return web.Response(status=500)

    early.answer = publish_late
    async with scene(early, watch=watch) as s:
        await s.until(lambda: "b" in s.names(), "the worker that came during the first poll")
    await late.stop()


async def test_a_vanished_worker_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.roster._VANISHED_SECONDS", 0.2)
    async with scene(digits("a")) as s:
        s.watch.publish([])
        await s.until(lambda: s.names() == set(), "a dropped")


async def test_the_count_of_workers_is_true_after_one_is_dropped() -> None:
    async with scene(digits("a"), digits("b")) as s:
        await s.nodes["a"].stop()
        s.watch.publish([s.nodes["b"].member])
        await s.until(lambda: s.names() == {"b"}, "a dropped")

        def counted(state: str) -> float | None:
            return s.registry.get_sample_value("shoal_directory_workers", {"state": state})

        await s.until(lambda: (counted("ready"), counted("unreachable")) == (1.0, 0.0), "the metric")


async def test_a_worker_that_is_not_heard_of_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(digits("a"), interval=30) as s:
        assert repr(s.fleet) == "<Fleet 1 of 1 workers ready>"
        monkeypatch.setattr("gateway.known_worker._FRESH_SECONDS", 0.0)
        assert [repr(w) for w in s.fleet] == ["<Worker a silent>"]


@pytest.mark.parametrize("status", ["restarting", "stalled"])
async def test_a_restarting_model_is_used_only_when_none_is_ready(status: Status) -> None:
    async with scene(digits("a", status=status), digits("b", 9)) as s:
        assert s.chosen() == ["b"]
        s.nodes["b"].draining = True
        await s.nodes["b"].polled()
        assert s.chosen() == ["a"]


async def choice(s: Scene, patience: float) -> Choice:
    return await s.fleet.await_choice(Wish("digits"), patience)


@pytest.mark.parametrize("how", ["a new worker", "one that recovers"])
async def test_a_request_waits_for_a_worker_to_turn_up(how: str) -> None:
    node = digits("a")
    node.ill = how == "one that recovers"
    async with scene(*([node] if node.ill else [])) as s:
        waiting = [asyncio.create_task(choice(s, 20)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        if node.ill:
            node.ill = False
        else:
            await node.start()
            s.watch.publish([node.member])
        async with asyncio.timeout(5):
            assert [(await task).name for task in waiting] == ["a", "a", "a"]
        await node.stop()


@pytest.mark.parametrize(("nodes", "error"), [((), NoWorker), ((digits("a", 10),), QueueFull)])
async def test_patience_has_an_end_and_is_not_for_full_queues(nodes: tuple[Node, ...], error: type[Exception]) -> None:
    async with scene(*nodes) as s:
        started = time.monotonic()
        with pytest.raises(error):
            await choice(s, 0.2 if error is NoWorker else 20)
        waited = time.monotonic() - started
        assert 0.2 <= waited < 2 if error is NoWorker else waited < 2
