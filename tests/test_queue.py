"""The node's queue, on every Redis that a node may run on: nothing lost, nothing twice, nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import redis.asyncio as aioredis

from shoal.wire import Job, Priority, Reply, Tensor, pack, unpack_reply
from tests.clusters import eventually_async
from tests.redis_servers import KINDS, RedisServer
from worker.jobs import Claimed, Observed, Refused, Submitted
from worker.queue import Queue, QueueUnavailable

KEY = "digits@1"
ROOM: dict[str, Any] = {"capacity": 1000, "capacity_bytes": 1 << 30}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[aioredis.Redis]:
    """A look behind the queue, which is empty at first."""
    async with aioredis.Redis(unix_socket_path=str(server.socket)) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def queue(server: RedisServer, redis: aioredis.Redis) -> AsyncIterator[Queue]:
    async with Queue.connect(str(server.socket)) as connected:
        await connected.prepare(KEY)
        yield connected


def job(
    name: str,
    *,
    size: int = 10,
    waiters: Sequence[str] = ("front",),
    priority: Priority = "interactive",
    digest: str = "",
) -> Job:
    return Job(
        name,
        {"image": Tensor("uint8", (size,), bytes(size))},
        list(waiters),
        submitted=time.monotonic(),
        remaining_ms=10_000,
        request_id=f"r-{name}",
        priority=priority,
        digest=digest,
    )


async def submit(queue: Queue, *names: str, **options: Any) -> list[Submitted]:
    submitted = []
    for name in names:
        outcome = await queue.submit(KEY, job(name, **options), **ROOM)
        assert isinstance(outcome, Submitted)
        submitted.append(outcome)
    return submitted


async def claim(queue: Queue, process: str = "p1", count: int = 100, wait: float = 0) -> list[Claimed]:
    return await queue.claim(KEY, process, count, wait)


async def finish(queue: Queue, claimed: Sequence[Claimed]) -> int:
    return await queue.finish(KEY, [(c, Reply(job=c.job.id, attempt=c.attempt)) for c in claimed])


async def answered(queue: Queue, front: str = "front") -> list[str]:
    """The ids of the answered jobs, in order."""
    _, replies = await queue.replies(front, b"0-0", 0.01)
    return [unpack_reply(data).job for data in replies]


def names(claimed: Sequence[Claimed]) -> list[str]:
    return [c.job.id for c in claimed]


async def bytes_waiting(redis: aioredis.Redis) -> int:
    return int(await redis.get(f"shoal:{KEY}:bytes") or 0)


async def left_behind(redis: aioredis.Redis) -> dict[str, int]:
    """What stays for ever: keys that do not expire, and are neither an empty stream nor a zero."""
    found = {}
    for name in await redis.keys():
        if await redis.ttl(name) < 0:
            stream = await redis.type(name) == b"stream"
            found[str(name)] = int(await redis.xlen(name)) if stream else int(await redis.get(name) or 0)
    return {name: content for name, content in found.items() if content}


async def test_jobs_go_through_in_order_and_whole(queue: Queue, redis: aioredis.Redis) -> None:
    jobs = [job(f"j{i}", size=100 + i, waiters=["front", "other"] if i == 2 else ["front"]) for i in range(4)]
    depths = [getattr(await queue.submit(KEY, j, **ROOM), "depth", None) for j in jobs]
    assert depths == [1, 2, 3, 4]
    assert await bytes_waiting(redis) == sum(len(pack(j)) for j in jobs)
    claimed = await claim(queue)
    assert [c.job for c in claimed] == jobs
    assert [(c.attempt, c.suspect, c.size) for c in claimed] == [(1, False, len(pack(j))) for j in jobs]
    assert await queue.depth(KEY) == 4  # an executing job counts until it is answered
    assert await finish(queue, claimed) == 4
    assert await answered(queue) == ["j0", "j1", "j2", "j3"]
    assert await answered(queue, "other") == ["j2"]
    assert (await queue.depth(KEY), await bytes_waiting(redis), await left_behind(redis)) == (0, 0, {})


async def test_a_claim_takes_what_waits_up_to_its_count(queue: Queue) -> None:
    await submit(queue, *"abcde")
    started = time.monotonic()
    assert [names(await claim(queue, f"p{i}", count=2, wait=10)) for i in range(3)] == [["a", "b"], ["c", "d"], ["e"]]
    assert time.monotonic() - started < 5
    assert await claim(queue) == []
    assert await claim(queue, wait=0.05) == []


@pytest.mark.parametrize("count", [1, 8])
async def test_an_empty_queue_wakes_who_waits(queue: Queue, redis: aioredis.Redis, count: int) -> None:
    async def waits() -> bool:
        return bool((await redis.info("clients"))["blocked_clients"])

    claiming = asyncio.create_task(claim(queue, count=count, wait=30))
    await eventually_async(waits, within=5, what="a blocked claim")
    await submit(queue, "a", "b")
    assert names(await asyncio.wait_for(claiming, 5))[:1] == ["a"]


async def test_replies_are_read_from_where_one_was(queue: Queue, redis: aioredis.Redis) -> None:
    await submit(queue, *"abc")
    await finish(queue, await claim(queue, count=2))
    after, first = await queue.replies("front", b"0-0", 1)
    assert [unpack_reply(data).job for data in first] == ["a", "b"]
    assert await queue.replies("front", after, 0.01) == (after, [])
    await finish(queue, await claim(queue))
    last, second = await queue.replies("front", after, 1)
    assert [unpack_reply(data).job for data in second] == ["c"]
    await queue.trim_replies("front", last)
    assert await redis.xlen("shoal:replies:front") == 1
    await queue.forget_front("front")
    assert await redis.exists("shoal:replies:front") == 0


@pytest.mark.parametrize(
    ("capacity", "jobs_of_bytes", "accepted"),
    [(7, 1000.0, 7), (1000, 7.0, 7), (1000, 7.9, 7), (1, 9.0, 1), (3, 0.5, 1)],
)
async def test_capacity_is_exact_whoever_comes(
    queue: Queue, redis: aioredis.Redis, capacity: int, jobs_of_bytes: float, accepted: int
) -> None:
    """By count and by bytes. The first job is taken however large: an empty queue refuses nothing."""
    jobs = [job(f"j{i:03}") for i in range(200)]
    size = len(pack(jobs[0]))
    most = int(jobs_of_bytes * size)
    outcomes = await asyncio.gather(*(queue.submit(KEY, j, capacity=capacity, capacity_bytes=most) for j in jobs))
    refused = [o for o in outcomes if isinstance(o, Refused)]
    assert len(outcomes) - len(refused) == accepted
    assert {(r.reason, r.depth) for r in refused} == {("full", accepted)}
    assert (await queue.depth(KEY), await bytes_waiting(redis)) == (accepted, accepted * size)
    await finish(queue, await claim(queue))
    assert isinstance(await queue.submit(KEY, jobs[0], capacity=capacity, capacity_bytes=most), Submitted)


async def test_a_ticket_has_exactly_its_uses(queue: Queue, redis: aioredis.Redis) -> None:
    outcomes = await asyncio.gather(*(queue.submit(KEY, job(f"j{i}"), **ROOM, ticket="t", uses=5) for i in range(50)))
    assert [getattr(o, "reason", "ok") for o in outcomes].count("ok") == 5
    assert {o.reason for o in outcomes if isinstance(o, Refused)} == {"spent"}
    assert await queue.depth(KEY) == 5
    assert 0 < await redis.pttl("shoal:ticket:t") <= 600_000


async def test_a_full_queue_spends_no_ticket(queue: Queue) -> None:
    async def try_it() -> str:
        outcome = await queue.submit(KEY, job("x"), capacity=1, capacity_bytes=1 << 20, ticket="t", uses=2)
        return outcome.reason if isinstance(outcome, Refused) else "ok"

    assert [await try_it() for _ in range(3)] == ["ok", "full", "full"]
    await finish(queue, await claim(queue))
    assert await try_it() == "ok"
    await finish(queue, await claim(queue))
    assert await try_it() == "spent"


async def test_a_use_may_be_spent_without_a_job(queue: Queue, redis: aioredis.Redis) -> None:
    await queue.arrive(KEY, "", ticket="t")
    assert await redis.pttl("shoal:ticket:t") > 0
    outcome = await queue.submit(KEY, job("a"), **ROOM, ticket="t", uses=1)
    assert outcome == Refused("spent", 0)


async def test_a_job_is_answered_once(queue: Queue, redis: aioredis.Redis) -> None:
    await submit(queue, "a", "b")
    claimed = await claim(queue)
    assert [await finish(queue, claimed[:1]), await finish(queue, claimed), await finish(queue, claimed)] == [1, 1, 0]
    assert await answered(queue) == ["a", "b"]
    assert await bytes_waiting(redis) == 0


async def test_only_an_unclaimed_job_is_taken_back(queue: Queue, redis: aioredis.Redis) -> None:
    claimed, waiting = await submit(queue, "a", "b")
    assert names(await claim(queue, count=1)) == ["a"]
    assert [await queue.cancel(KEY, s) for s in (claimed, waiting, waiting)] == [False, True, False]
    assert await queue.depth(KEY) == 1
    assert await bytes_waiting(redis) == claimed.size
    assert await claim(queue) == []


async def test_a_job_is_taken_back_before_any_model_process_came(queue: Queue, redis: aioredis.Redis) -> None:
    """After a restart of Redis the fronts submit again first: there is no group yet."""
    await redis.flushall()
    (submitted,) = await submit(queue, "a")
    assert await queue.cancel(KEY, submitted) is True
    assert (await queue.depth(KEY), await bytes_waiting(redis)) == (0, 0)


async def test_a_dead_process_s_jobs_come_again_alone(queue: Queue) -> None:
    # Given three jobs in the hands of a process that dies, one that another has, and one that waits
    await submit(queue, *"abcde")
    assert names(await claim(queue, "dead", count=3)) == ["a", "b", "c"]
    other = await claim(queue, "alive", count=1)
    assert await queue.reclaim(KEY, "dead") == (3, [])
    assert await queue.depth(KEY) == 5
    # Then each of the three is claimed alone, before what waits, as its second attempt
    again = [await claim(queue, "alive") for _ in range(4)]
    assert [names(batch) for batch in again] == [["a"], ["b"], ["c"], ["e"]]
    assert [(c.suspect, c.attempt) for batch in again for c in batch] == [(True, 2)] * 3 + [(False, 1)]
    assert await finish(queue, [*again[0], *other, *again[3], *again[1], *again[2]]) == 5
    assert sorted(await answered(queue)) == ["a", "b", "c", "d", "e"]
    assert await queue.reclaim(KEY, "dead") == (0, [])


async def test_the_answer_of_one_thought_dead_is_not_given_twice(queue: Queue) -> None:
    await submit(queue, "a")
    early = await claim(queue, "p1")
    await queue.reclaim(KEY, "p1")
    late = await claim(queue, "p2")
    assert [await finish(queue, early), await finish(queue, late), await finish(queue, early)] == [0, 1, 0]
    assert await answered(queue) == ["a"]


async def test_a_job_that_dies_alone_twice_is_handed_back(queue: Queue, redis: aioredis.Redis) -> None:
    # Given a job that died among others, which does not count against it, and then alone
    submitted, _ = await submit(queue, "bad", "good")
    await claim(queue, "p1")
    assert await queue.reclaim(KEY, "p1") == (2, [])
    assert names(await claim(queue, "p2")) == ["bad"]
    assert await queue.reclaim(KEY, "p2") == (1, [])
    good = await claim(queue, "p3")
    assert [(c.job.id, c.attempt) for c in good] == [("good", 2)]
    assert await finish(queue, good) == 1
    assert [c.attempt for c in await claim(queue, "p3")] == [3]
    assert await bytes_waiting(redis) == submitted.size
    # When it dies alone again, it is out, and its bytes with it
    moved, culprits = await queue.reclaim(KEY, "p3")
    assert (moved, [c.id for c in culprits]) == (0, ["bad"])
    assert (await queue.depth(KEY), await bytes_waiting(redis)) == (0, 0)
    # And its caller can be answered
    await queue.reply(culprits[0], Reply(job="bad", code="model_crashed"))
    assert await answered(queue) == ["good", "bad"]
    assert await left_behind(redis) == {}


@pytest.mark.parametrize("wait", [0.0, 5.0])
@pytest.mark.parametrize("garbage", [b"garbage", b"", b"\x80"])
async def test_a_job_that_does_not_unpack_harms_nobody(
    queue: Queue, redis: aioredis.Redis, wait: float, garbage: bytes
) -> None:
    async def submit_garbage() -> None:
        await redis.xadd(f"shoal:{KEY}:waiting", {"job": garbage, "claims": "0", "front": "front"})
        await redis.incrby(f"shoal:{KEY}:bytes", len(garbage))

    await submit_garbage()
    assert await claim(queue, wait=0.01 if wait else 0) == []
    await submit(queue, "a")
    await submit_garbage()
    await submit(queue, "b")
    claimed = await claim(queue, wait=wait)
    assert names(claimed) == ["a", "b"]
    assert await queue.depth(KEY) == 2
    assert await bytes_waiting(redis) == sum(c.size for c in claimed)


async def test_interactive_jobs_go_before_bulk_ones_which_fill_the_rest(queue: Queue) -> None:
    await submit(queue, "b1", "b2", "b3", priority="bulk")
    await submit(queue, "i1", "i2")
    assert names(await claim(queue, count=3)) == ["i1", "i2", "b1"]
    assert names(await claim(queue, count=3)) == ["b2", "b3"]


async def test_bulk_jobs_never_starve(queue: Queue) -> None:
    """However many interactive ones wait, every eighth claim takes bulk first."""
    await submit(queue, "b1", "b2", priority="bulk")
    await submit(queue, *(f"i{n}" for n in range(20)))
    order = [names(await claim(queue, count=1))[0] for _ in range(22)]
    assert [n for n, name in enumerate(order) if name.startswith("b")] == [7, 15]


async def test_bulk_jobs_have_a_share_of_every_large_batch(queue: Queue) -> None:
    await submit(queue, *(f"b{n}" for n in range(5)), priority="bulk")
    await submit(queue, *(f"i{n}" for n in range(20)))
    batches = [sorted(names(await claim(queue, count=8))) for _ in range(4)]
    shares = [sum(name.startswith("b") for name in batch) for batch in batches]
    assert shares == [1, 1, 2, 1]  # the third one is filled up with them
    assert [len(batch) for batch in batches] == [8, 8, 8, 1]


@pytest.mark.parametrize("wait", [0.0, 5.0])
async def test_a_bulk_job_alone_does_not_wait(queue: Queue, wait: float) -> None:
    await submit(queue, "b", priority="bulk")
    claimed = await claim(queue, wait=wait)
    assert names(claimed) == ["b"]
    assert await finish(queue, claimed) == 1
    assert await answered(queue) == ["b"]


async def test_bulk_jobs_leave_room_for_interactive_ones(queue: Queue) -> None:
    async def accepted(priority: Priority) -> int:
        outcomes = [await queue.submit(KEY, job(f"{n}", priority=priority), **room) for n in range(30)]
        return sum(isinstance(outcome, Submitted) for outcome in outcomes)

    room = ROOM | {"capacity": 20}
    assert [await accepted("bulk"), await accepted("interactive"), await accepted("bulk")] == [15, 5, 0]


async def test_a_dead_bulk_batch_is_reclaimed_like_any_other(queue: Queue, redis: aioredis.Redis) -> None:
    (cancelled,) = await submit(queue, "c", priority="bulk")
    assert await queue.cancel(KEY, cancelled)
    await submit(queue, "a", "b", priority="bulk")
    await claim(queue, "p1")
    assert await queue.reclaim(KEY, "p1") == (2, [])
    for name in "ab":
        again = await claim(queue, "p2")
        assert [(c.job.id, c.suspect, c.attempt) for c in again] == [(name, True, 2)]
        assert await finish(queue, again) == 1
    assert (await queue.depth(KEY), await bytes_waiting(redis)) == (0, 0)


async def test_what_a_dead_front_left_is_deleted_unless_it_is_executing(queue: Queue, redis: aioredis.Redis) -> None:
    await submit(queue, "executing", waiters=["dead"])
    claimed = await claim(queue)
    await submit(queue, "left", waiters=["dead"])
    await submit(queue, "other", waiters=["alive"])
    await submit(queue, "bulk", waiters=["dead"], priority="bulk")
    assert await queue.abandon(KEY, "dead") == 2
    assert await bytes_waiting(redis) == sum(len(pack(job(n, waiters=w))) for n, w in LEFT)
    assert await finish(queue, claimed) == 1
    assert names(await claim(queue)) == ["other"]


LEFT = (("executing", ["dead"]), ("other", ["alive"]))


async def test_gateways_share_what_is_free(queue: Queue) -> None:
    async def slots(gateway: str) -> tuple[int, int]:
        (load,) = await queue.observe([KEY], gateway=gateway, capacity=20)
        return load.slots, load.bulk_slots

    assert await slots("g1") == (20, 15)
    assert await slots("g2") == (10, 7)
    assert await slots("g1") == (10, 8)  # the odd one goes to the first by name
    await submit(queue, *"abc")
    assert [await slots("g1"), await slots("g2"), await slots("g3")] == [(9, 6), (8, 6), (5, 4)]
    assert await slots("") == (6, 4)  # somebody who looks takes no share
    await submit(queue, *(f"j{n}" for n in range(17)))
    assert await slots("g1") == (0, 0)


async def test_a_report_says_what_waits_and_what_of_mine_has_come(queue: Queue) -> None:
    await submit(queue, "a", "b")
    await queue.submit(KEY, job("c", priority="bulk"), **ROOM, gateway="g1")
    await queue.submit(KEY, job("d"), **ROOM | {"capacity": 1}, gateway="g1")  # refused, and yet it has come
    await queue.arrive(KEY, "g1")
    assert await queue.observe([KEY, "faces@1"], gateway="g1", capacity=100) == [
        Observed(depth=3, bulk_depth=1, slots=97, bulk_slots=72, arrived=3),
        Observed(depth=0, bulk_depth=0, slots=100, bulk_slots=75, arrived=0),
    ]


async def test_a_gateway_that_polls_no_more_takes_no_share(
    queue: Queue, redis: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.arrive(KEY, "g1")
    await queue.observe([KEY], gateway="g1", capacity=20)
    monkeypatch.setattr("worker.queue._GATEWAY_LIFETIME_MS", 0)
    (load,) = await queue.observe([KEY], gateway="g2", capacity=20)
    assert load.slots == 20
    assert await redis.zrange("shoal:gateways", 0, -1) == [b"g2"]
    assert await redis.hgetall(f"shoal:{KEY}:arrived") == {}


async def test_a_quarantined_image_is_refused_until_it_is_released(queue: Queue) -> None:
    async def attempt() -> str:
        outcome = await queue.submit(KEY, job("again", digest="d1"), **ROOM, ticket="t", uses=1)
        return outcome.reason if isinstance(outcome, Refused) else "ok"

    await queue.quarantine(KEY, job("bad", digest="d1"))
    await queue.quarantine(KEY, job("worse", digest="d2"))
    assert [(q.digest, q.request_id) for q in await queue.quarantined(KEY)] == [("d1", "r-bad"), ("d2", "r-worse")]
    assert await attempt() == "quarantined"
    assert [await queue.release(KEY, "d1"), await queue.release(KEY, "d1")] == [1, 0]
    assert await attempt() == "ok"  # and the refusal had spent no ticket
    assert (await queue.release(KEY), await queue.quarantined(KEY)) == (1, [])


async def test_versions_do_not_mix(queue: Queue) -> None:
    await queue.prepare("digits@2")
    await submit(queue, "a")
    assert await queue.claim("digits@2", "p1", 10, 0) == []
    assert (await queue.depth("digits@2"), await queue.depth(KEY)) == (0, 1)


NOTHING = Submitted(b"1-1", 1, 1, "interactive")
HELD = Claimed(b"1-1", f"shoal:{KEY}:waiting", size=1, attempt=1, job=job("a"))
OPERATIONS: dict[str, Callable[[Queue], Awaitable[object]]] = {
    "submit": lambda q: q.submit(KEY, job("a"), **ROOM),
    "arrive": lambda q: q.arrive(KEY, "g", ticket="t"),
    "observe": lambda q: q.observe([KEY], gateway="g", capacity=10),
    "abandon": lambda q: q.abandon(KEY, "front"),
    "quarantine": lambda q: q.quarantine(KEY, HELD.job),
    "quarantined": lambda q: q.quarantined(KEY),
    "release": lambda q: q.release(KEY),
    "cancel": lambda q: q.cancel(KEY, NOTHING),
    "holds": lambda q: q.holds(KEY, NOTHING),
    "depth": lambda q: q.depth(KEY),
    "prepare": lambda q: q.prepare(KEY),
    "claim": lambda q: q.claim(KEY, "p1", 1, 0),
    "waiting claim": lambda q: q.claim(KEY, "p1", 1, 1),
    "finish": lambda q: q.finish(KEY, [(HELD, Reply(job="a"))]),
    "reclaim": lambda q: q.reclaim(KEY, "p1"),
    "reply": lambda q: q.reply(HELD.job, Reply(job="a")),
    "replies": lambda q: q.replies("front", b"0-0", 0.01),
    "trim_replies": lambda q: q.trim_replies("front", b"1-1"),
    "forget_front": lambda q: q.forget_front("front"),
    "run_id": lambda q: q.run_id(),
}


async def test_without_redis_everything_says_so_and_recovers(server: RedisServer, queue: Queue) -> None:
    # Given a queue in use, with someone who waits at it
    before = await queue.run_id()
    await submit(queue, "a")
    await finish(queue, await claim(queue))
    waiting = asyncio.create_task(claim(queue, wait=30))
    # When Redis is killed
    server.kill()
    with pytest.raises(QueueUnavailable):
        await asyncio.wait_for(waiting, 5)
    for operation in OPERATIONS.values():
        with pytest.raises(QueueUnavailable):
            await asyncio.wait_for(operation(queue), 5)
    # And another one starts, empty
    server.start()
    assert await queue.run_id() != before
    # Then the queue works again, with its scripts and its group
    await submit(queue, "b")
    claimed = await claim(queue) or await claim(queue)
    assert names(claimed) == ["b"]
    assert await finish(queue, claimed) == 1
    assert await answered(queue) == ["b"]
    for operation in OPERATIONS.values():
        await asyncio.wait_for(operation(queue), 5)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_redis_without_memory_is_a_full_queue(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(kind)
    with RedisServer(kind, folder, most_bytes=4 << 20) as small:
        async with Queue.connect(str(small.socket)) as queue:
            await queue.prepare(KEY)
            outcomes = [
                await queue.submit(KEY, job(f"j{i}", size=200_000), **ROOM, ticket="t", uses=1000) for i in range(40)
            ]
            accepted = [o for o in outcomes if isinstance(o, Submitted)]
            assert 0 < len(accepted) < 40
            assert await queue.depth(KEY) == len(accepted)
            assert await finish(queue, await claim(queue)) == len(accepted)


async def test_a_cancellation_is_never_swallowed(queue: Queue) -> None:
    async def endless() -> None:
        while True:
            await queue.run_id()

    for turns in range(100):
        task = asyncio.create_task(endless())
        for _ in range(turns % 25):
            await asyncio.sleep(0)
        task.cancel()
        assert task in (await asyncio.wait([task], timeout=5))[0], f"after {turns % 25} turns of the loop"
