"""Many workers: the index of their offers, the choice among a few, the parts of the gateways, and a simulated fleet."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry

from bench.fleet.gateways import Load, look_up, predict, told
from bench.fleet.simulated import SimulatedWorker
from bench.fleet.workers import Order
from bench.fleet.world import fleet as simulated_fleet
from discovery import Member
from discovery.latest import Latest
from discovery.publications import Publications
from gateway.balancers import BALANCERS
from gateway.fleet import Fleet, Wish
from gateway.inquiries import Inquiries
from gateway.known_worker import Worker
from gateway.line import Line
from gateway.offers import Offers
from gateway.proxy import Answer, Proxy
from gateway.proxy_tickets import ProxyTickets
from gateway.roster import Roster
from gateway.scaling import ScaleSignal
from gateway.subsets import Subset
from shoal import tickets
from shoal.errors import QueueFull
from shoal.metrics import GatewayMetrics
from shoal.tls import Calls
from shoal.wire import LoadReport, ModelLoad, Status
from tests.clusters import eventually_async
from tests.consul_server import ConsulServer, find_consul
from tests.needs import need

PLAIN = Calls(None, "worker")
WISH = Wish("digits", public=True)


def load(depth: int = 0, *, capacity: int = 100, status: Status = "ready", caches: bool = False) -> ModelLoad:
    free = max(0, capacity - depth)
    return ModelLoad(status, queue_depth=depth, slots=free, bulk_slots=free, seconds_per_image=0.01, caches=caches)


def member(name: str, *keys: str, url: str = "http://w") -> Member:
    return Member("worker", name, f"{name}-1", url, url, models=dict.fromkeys(keys or ("digits@1",), "ready"))


def worker(name: str, models: Mapping[str, ModelLoad], news: Callable[[], None] = lambda: None) -> Worker:
    found = Worker(member(name), news)
    found.settle(LoadReport(name, f"{name}-1", measured=1.0, models=dict(models)))
    return found


def fleet_of(workers: Sequence[Worker], balancer: str = "least_expected_wait") -> Fleet:
    """A fleet that knows these, and polls nobody."""
    metrics = GatewayMetrics(CollectorRegistry())
    fleet = Fleet(BALANCERS[balancer](), metrics, Publications())
    subset = Subset("g", above=1000, copies=1)
    fleet._roster = Roster("g", PLAIN, 30, metrics, subset, news=fleet._forget_offers, turned_up=lambda _: None)
    fleet._roster._workers = {each.incarnation: each for each in workers}
    fleet._random = random.Random(7)
    return fleet


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes a microsecond at a look: reports stay fresh, and what was reserved is on its way, on any machine."""
    looks = count(100_000_000)
    monkeypatch.setattr("time.monotonic", lambda: next(looks) / 1_000_000)


# The index


def test_the_index_is_made_anew_only_when_an_offer_changes() -> None:
    told: list[str] = []
    one = worker("a", {"digits@1": load(1)}, lambda: told.append("news"))
    assert told == ["news"]
    for measured, state in enumerate((load(5), load(9, capacity=9), load(0)), start=2):
        one.settle(LoadReport("a", "a-1", measured=measured, models={"digits@1": state}))
    assert told == ["news"]
    for measured, models in enumerate(
        ({"digits@1": load(status="stalled")}, {"digits@2": load()}, {"digits@2": load(caches=True)}, {}), start=10
    ):
        told.clear()
        one.settle(LoadReport("a", "a-1", measured=measured, models=models))
        assert told == ["news"], models


def test_the_index_says_what_is_reported_what_is_offered_and_what_is_cached() -> None:
    offers = Offers(
        [
            worker("a", {"digits@1": load(), "faces@1": load(status="failed")}),
            worker("b", {"digits@1": load(), "digits@2": load(status="stalled"), "cats@1": load(caches=True)}),
        ]
    )
    assert list(offers.reported) == ["digits@1", "faces@1", "digits@2", "cats@1"]
    assert offers.caching == {"cats"}
    first, second = ({w.member.name: v for w, v in tier.items()} for tier in offers.tiers("digits"))
    assert (first, second) == ({"a": ["1"], "b": ["1"]}, {"b": ["2"]})
    assert not any(offers.tiers("faces"))
    assert offers.tiers("unheard-of") == ()
    ready = offers.ready("digits", None, None, "")
    assert [(w.member.name, version) for w, version in ready] == [("a", "1"), ("b", "1")]
    assert offers.ready("digits", None, None, "") is ready, "it is remembered"
    assert offers.ready("digits", "2", None, "") == []
    for invented in range(100):
        assert offers.ready("digits", f"9{invented}", None, "") == []
    assert len(offers._picked) == 1, "only what was found is remembered"


# The choice among a few


@pytest.mark.usefixtures("still")
def test_of_a_large_fleet_only_a_few_workers_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: set[str] = set()
    room = Worker.room

    def noted(self: Worker, *arguments: object) -> int:
        looked_at.add(self.member.name)
        return room(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "room", noted)
    for size, most in ((2, 2), (16, 16), (17, 8), (100, 8)):
        fleet = fleet_of([worker(f"w{n}", {"digits@1": load()}) for n in range(size)])
        looked_at.clear()
        fleet.choose(WISH)
        assert len(looked_at) == most, size


@pytest.mark.usefixtures("still")
def test_the_best_of_a_few_is_nearly_the_best_of_all() -> None:
    fleet = fleet_of([worker(f"w{n:03}", {"digits@1": load(n)}) for n in range(100)])
    chosen = [int(fleet.choose(WISH).name[1:]) for _ in range(2000)]
    assert sum(depth < 25 for depth in chosen) > 0.85 * len(chosen)  # 1 - 0.75 ** 8 = 0.9
    assert sum(depth > 50 for depth in chosen) < 0.02 * len(chosen)


@pytest.mark.usefixtures("still")
def test_a_large_fleet_is_filled_evenly() -> None:
    fleet = fleet_of([worker(f"w{n:03}", {"digits@1": load()}) for n in range(100)])
    counts: Counter[str] = Counter()
    for _ in range(2000):
        choice = fleet.choose(WISH)
        choice.worker.reserve(choice.key, 1)
        counts[choice.name] += 1
    assert len(counts) == 100
    assert max(counts.values()) <= 23  # 20 each; at random it would be over 30


@pytest.mark.usefixtures("still")
def test_workers_in_turn_are_all_in_turn_however_many() -> None:
    fleet = fleet_of([worker(f"w{n:03}", {"digits@1": load()}) for n in range(50)], "round_robin")
    assert len({fleet.choose(WISH).name for _ in range(50)}) == 50


@pytest.mark.usefixtures("still")
def test_the_last_free_place_of_a_large_fleet_is_found() -> None:
    full = [worker(f"w{n:03}", {"digits@1": load(100)}) for n in range(99)]
    fleet = fleet_of([*full, worker("free", {"digits@1": load(99)})])
    assert fleet.choose(WISH).name == "free"
    with pytest.raises(QueueFull) as caught:
        fleet.choose(Wish("digits", public=True, seconds=0.5))
    assert caught.value.retry_after == pytest.approx(0.99)


@pytest.mark.usefixtures("still")
def test_who_is_excluded_is_not_among_the_few() -> None:
    fleet = fleet_of([worker(f"w{n:03}", {"digits@1": load(n)}) for n in range(40)])
    excluded = frozenset(f"w{n:03}-1" for n in range(39))
    assert {fleet.choose(Wish("digits", exclude=excluded)).name for _ in range(20)} == {"w039"}


@pytest.mark.usefixtures("still")
def test_a_large_fleet_that_breaks_is_trusted_all_the_same() -> None:
    workers = [worker(f"w{n:03}", {"digits@1": load(90)}) for n in range(100)]
    fleet = fleet_of(workers)
    for each in workers[:90]:
        each.broke()
        each.settle(LoadReport(each.member.name, each.incarnation, measured=2.0, models={"digits@1": load()}))
    chosen = Counter(fleet.choose(WISH).name in {w.member.name for w in workers[:90]} for _ in range(200))
    assert chosen[True] > 150, "those that were ejected, and answer, take requests"


# The part of a gateway

GATEWAYS = [f"gateway-{n}" for n in range(20)]
MEMBERS = [member(f"worker-{n}") for n in range(500)]


def parts(gateways: Sequence[str], members: Sequence[Member] = MEMBERS, copies: int = 3) -> dict[str, set[str]]:
    return {name: Subset(name, above=100, copies=copies).of(members, gateways) for name in gateways}


def test_every_worker_of_a_large_fleet_has_as_many_gateways_as_it_should() -> None:
    found = parts(GATEWAYS)
    used = Counter(incarnation for part in found.values() for incarnation in part)
    assert set(used.values()) == {3}
    assert len(used) == 500
    sizes = [len(part) for part in found.values()]
    assert max(sizes) < 1.5 * 75
    assert min(sizes) > 0.5 * 75


def test_only_the_workers_of_a_gateway_that_comes_or_goes_change_hands() -> None:
    before, after = parts(GATEWAYS[:-1]), parts(GATEWAYS)
    moved = sum(len(before[name] ^ after[name]) for name in before)
    assert moved == len(after[GATEWAYS[-1]]), "each that the new one takes is given up by one, and nothing else moves"


def test_a_worker_that_comes_moves_no_other() -> None:
    before, after = parts(GATEWAYS, MEMBERS[:-1]), parts(GATEWAYS)
    assert {i for name in GATEWAYS for i in before[name] ^ after[name]} == {MEMBERS[-1].incarnation}


@pytest.mark.parametrize(
    ("workers", "gateways", "copies", "whole"), [(100, 20, 3, True), (101, 20, 3, False), (500, 3, 3, True)]
)
def test_when_a_gateway_uses_the_whole_fleet(workers: int, gateways: int, copies: int, whole: bool) -> None:
    found = parts(GATEWAYS[:gateways], MEMBERS[:workers], copies)
    assert all((len(part) == workers) == whole for part in found.values())


def test_no_gateway_is_without_a_model_that_few_workers_have() -> None:
    rare = [member(f"rare-{n}", "cats@1") for n in range(3)]
    common = [member(f"also-{n}", "dogs@2") for n in range(40)]
    for part in parts(GATEWAYS, [*MEMBERS, *rare, *common]).values():
        assert {each.incarnation for each in rare} <= part
        assert len({each.incarnation for each in common} & part) >= 8


# Following a part


@asynccontextmanager
async def simulated(count: int) -> AsyncIterator[list[SimulatedWorker]]:
    workers = [SimulatedWorker(f"w{n}", f"w{n}-1", "digits@1", 0.01, 100) for n in range(count)]
    for each in workers:
        await each.listen(None)
    try:
        yield workers
    finally:
        for each in workers:
            each.kill()


@asynccontextmanager
async def following(watch: Latest, gateways: Latest, above: int) -> AsyncIterator[Fleet]:
    async with Fleet.follow(
        watch,
        BALANCERS["least_expected_wait"](),
        name="g1",
        interval=0.05,
        metrics=GatewayMetrics(CollectorRegistry()),
        gateways=gateways,
        subset=Subset("g1", above=above, copies=1),
    ) as fleet:
        yield fleet


def gateway(name: str) -> Member:
    return Member("gateway", name, f"{name}-1", "http://g")


async def _true(value: bool) -> bool:
    return value


async def until(condition: Callable[[], bool], what: str) -> None:
    await eventually_async(lambda: _true(condition()), within=10, what=what)


async def test_a_gateway_polls_its_part_and_knows_of_the_rest() -> None:
    watch, gateways = Latest("worker"), Latest("gateway")
    async with simulated(40) as workers:
        watch.publish(each.member for each in workers)
        gateways.publish([gateway("g1"), gateway("g2")])
        async with following(watch, gateways, above=10) as fleet:
            ours, others = list(fleet), fleet.elsewhere
            assert len(ours) + len(others) == 40
            assert 5 < len(ours) < 35
            # Those that are elsewhere are found by name, and asked when somebody wants to know how they are.
            away = next(iter(others))
            assert fleet.named(away) is not None

            async def is_ready() -> bool:
                return await fleet.state_of(away) == "ready"

            await eventually_async(is_ready, within=20, what="an answer of one that is elsewhere")
            next(each for each in workers if each.incarnation == away).kill()
            assert await fleet.state_of(away) == "unreachable"
            assert await fleet.state_of("nobody") == "gone"

            # The scale signal is that of the fleet.
            def counted() -> int:
                return int(ScaleSignal().document(fleet, {}, 0.7, others.values())["total"]["workers"])

            await until(lambda: counted() == 40, "all workers are ready, and counted")


async def test_a_gateway_takes_over_what_one_that_is_gone_has_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.roster._VANISHED_SECONDS", 0.3)
    watch, gateways = Latest("worker"), Latest("gateway")
    async with simulated(20) as workers:
        watch.publish(each.member for each in workers)
        gateways.publish([gateway("g1"), gateway("g2")])
        async with following(watch, gateways, above=10) as fleet:
            kept = {each.incarnation: each for each in fleet}
            assert len(kept) < 20
            gateways.publish([gateway("g1")])
            await until(lambda: not fleet.elsewhere and all(w.state == "ready" for w in fleet), "all workers")
            assert all(fleet.named(name) is each for name, each in kept.items()), "what it had, it has still"
            gateways.publish([gateway("g1"), gateway("g2")])
            await until(lambda: {each.incarnation for each in fleet} == set(kept), "its part again")


async def _request(worker: Worker) -> None:
    """One that is not answered: it ends when it is given up."""
    with worker.sending() as scope, suppress(TimeoutError):
        async with scope:
            await asyncio.Event().wait()


def _is_later(worker: SimulatedWorker, last: float) -> bool:
    return worker.polled_by("g1") > last


async def test_a_worker_that_another_gateway_takes_over_is_watched_until_it_has_answered() -> None:
    watch, gateways = Latest("worker"), Latest("gateway")
    async with simulated(20) as workers:
        watch.publish(each.member for each in workers)
        gateways.publish([gateway("g1")])
        async with following(watch, gateways, above=10) as fleet:
            sent = {each.incarnation: asyncio.create_task(_request(each)) for each in fleet}
            try:
                gateways.publish([gateway("g1"), gateway("g2")])
                await until(lambda: len(fleet.elsewhere) > 0, "the part of another gateway")
                away = next(iter(fleet.elsewhere))
                that = next(each for each in workers if each.incarnation == away)
                for _ in range(2):  # one poll may have been under way
                    last = that.polled_by("g1")
                    await until(partial(_is_later, that, last), "it is polled still")
                that.kill()
                await until(sent[away].done, "the request to it is given up")
            finally:
                for request in sent.values():
                    request.cancel()
            await until(lambda: len(fleet._roster._pollers) == len(fleet._roster), "nobody is polled for nothing")


async def test_lines_are_opened_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of TLS handshakes at once would all be too late, for ever."""
    opening, most, opened, connect = 0, 0, Counter[str](), Line._connect

    async def noted(self: Line, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        nonlocal opening, most
        opening, opened[url] = opening + 1, opened[url] + 1
        most = max(most, opening)
        await asyncio.sleep(0)
        try:
            return await connect(self, url)
        finally:
            opening -= 1

    monkeypatch.setattr(Line, "_connect", noted)
    monkeypatch.setattr("gateway.roster._POLL_TIMEOUT", 10)
    watch = Latest("worker")
    async with simulated(100) as workers:
        watch.publish(each.member for each in workers)
        async with following(watch, Latest("gateway"), above=1000) as fleet:
            assert all(each.report is not None for each in fleet), "entering waits for the first polls"
            assert set(opened.values()) == {1}
            assert len(opened) == 100
            assert most == 16


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(
    ("age", "rest"), [(0.0, 0.8), (0.3, 0.5), (0.8 + 0.75, 0.1), (4.9, 0.1), (5.1, 0.8), (float("inf"), 0.8)]
)
def test_when_a_worker_is_polled_again(age: float, rest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_of([worker(f"w{n:03}", {"digits@1": load()}) for n in range(200)])
    fleet._roster._interval = 0.05
    monkeypatch.setattr(Worker, "age", age)
    assert fleet._roster._rest(next(iter(fleet))) == pytest.approx(rest)


async def test_a_worker_that_has_not_reported_is_asked_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.roster._LOOK_SECONDS", 20)
    report = msgspec.json.encode(LoadReport("a", "a-1", measured=1.0, models={}))
    questions = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal questions
        while await reader.readuntil(b"\r\n\r\n"):
            questions += 1
            if questions > 1:  # the first is not answered
                writer.write(answer(report))

    async with listening(serve) as url:
        fleet = fleet_of([Worker(member("a", url=url))])
        assert await fleet.state_of("a-1") == "ready"
        assert await fleet.state_of("a-1") == "ready"
        assert questions == 2, "one that has reported is not asked"


# Statistics


class _Slow:
    """A proxy that notes how many questions are under way."""

    def __init__(self) -> None:
        self.under_way = self.most = 0

    async def ask(self, url: str, headers: Mapping[str, str], *, deadline: float) -> Answer:
        del url, headers, deadline
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        return Answer(200, {}, b"{}")


async def test_statistics_ask_all_workers_a_few_at_a_time_and_sign_for_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, keys = tmp_path / "ticket.key", tmp_path / "ticket-keys.json"
    tickets.generate(key, keys)
    signed: list[str] = []
    sign = tickets.Signer.sign

    def noted(self: tickets.Signer, **said: Any) -> str:
        signed.append(said["audience"])
        return sign(self, **said)

    monkeypatch.setattr(tickets.Signer, "sign", noted)
    fleet = fleet_of([worker("ours", {"digits@1": load()})])
    fleet._roster.elsewhere = {f"w{n}-1": member(f"w{n}") for n in range(99)}
    proxy, passes = _Slow(), ProxyTickets("g", tickets.Signer.load(key), fleet, max_bytes=1)
    inquiries = Inquiries(fleet, cast(Proxy, proxy), passes)
    for _ in range(2):
        assert len(await inquiries.ask_all("/v2/models/stats")) == 100
    assert proxy.most == 32
    assert sorted(signed) == sorted(["ours-1", *fleet.elsewhere])
    # After a while the tickets of those that are gone are forgotten, and no others
    passes._forgot = float("-inf")
    del fleet._roster.elsewhere["w7-1"]
    fleet._roster.elsewhere["new-1"] = member("new")
    await inquiries.ask_all("/v2/models/stats")
    assert signed[100:] == ["new-1"]
    assert {name[0] for name in passes._tickets} == {"ours-1", *fleet.elsewhere}


# The line to a worker

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """A server at the URL, and the end of all its connections afterwards: the other side is to have closed them."""
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if serving:
            await asyncio.wait(serving, timeout=10)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """A server that gives these answers in turn; an empty one is none, and closes the connection."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(left[0])
            if not left.pop(0):
                return

    async with listening(serve) as url:
        yield url


def answer(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


async def test_a_line_is_opened_again_when_the_worker_has_closed_it() -> None:
    async with answering(answer(b"1"), answer(b"2", "Connection: close\r\n"), answer(b"3"), b"", answer(b"4")) as url:
        line = Line("g", PLAIN)
        assert [(await line.ask(url))[1] for _ in range(4)] == [b"1", b"2", b"3", b"4"]
        line.close()


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"220 mail ready\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"],
)
async def test_what_is_no_answer_of_a_worker_is_refused(said: bytes) -> None:
    async with answering(said) as url:
        with pytest.raises(ValueError, match="no answer of a worker"):
            await Line("g", PLAIN).ask(url)


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    asked, late, connections = asyncio.Event(), asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections == 1:
            asked.set()
            await late.wait()
        writer.write(answer(f"from connection {connections}".encode()))

    async with listening(serve) as url:
        line = Line("g", PLAIN)
        asking = asyncio.create_task(line.ask(url))
        await asked.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert (await line.ask(url))[1] == b"from connection 2"
        late.set()
        line.close()


# A simulated fleet


async def test_thirty_simulated_workers_behind_two_gateways(tmp_path: Path) -> None:
    binary = find_consul()
    need(binary, "no consul")
    assert binary is not None
    key, keys = tmp_path / "ticket.key", tmp_path / "ticket-keys.json"
    tickets.generate(key, keys)
    async with AsyncExitStack() as stack:
        consul = stack.enter_context(ConsulServer(binary, tmp_path / "consul"))
        session = await stack.enter_async_context(ClientSession())
        fleet = await stack.enter_async_context(
            simulated_fleet("many", [consul.url], 30, 2, key=key, keys=keys, folder=tmp_path, session=session)
        )
        # When requests come both ways, all are answered, and many workers have their share
        for request in (look_up, predict):
            asked = Load(session, fleet.gateways[0].url, 40.0)
            async with asyncio.timeout(60):
                while asked.outcomes["200"] < 40:
                    await asked.run(0.5, request)
            assert asked.outcomes.keys() <= {"200", "503"}, "nothing breaks; on a busy machine no worker may be ready"

        async def several_have_executed() -> bool:
            async with session.get(f"{fleet.gateways[0].url}/status") as response:
                status = await response.json()
            assert (len(status["workers"]), status["elsewhere"]) == (30, 0)
            images = [int(load["images"]) for each in status["workers"] for load in each["models"].values()]
            return sum(count > 0 for count in images) > 5

        await eventually_async(several_have_executed, within=20, what="reports of images from several workers")
        # And every gateway hears of those that come, leave and die
        orders: Sequence[tuple[Order, bool]] = (
            (Order("add", count=2), True),
            (Order("leave", names=["many-0", "many-1"]), False),
            (Order("kill", names=["many-2"]), False),
        )
        for order, ready in orders:
            incarnations, _ = await fleet.tell(order)
            async with asyncio.timeout(30):
                for each in fleet.gateways:
                    await told(session, each.url, incarnations, ready=ready)
