"""A front's side of the queue: every job is answered once, whatever happens to Redis, and none that nobody wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from shoal.errors import DeadlineExceeded, ModelFailed, QueueFull, ShoalError, SpentTicket
from shoal.metrics import FrontMetrics
from shoal.tickets import Ticket
from shoal.wire import Job, Reply, Tensor, unpack_reply
from tests.clusters import eventually_async
from tests.redis_servers import KINDS, RedisServer
from worker.jobs import Claimed
from worker.queue import Queue, QueueUnavailable
from worker.submissions import Submissions

KEY = "digits@1"
IDLE = "<Submissions of front-1: 0 unanswered>"


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(request.param, tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def queue(server: RedisServer) -> AsyncIterator[Queue]:
    """The queue as a model process has it."""
    async with Queue.connect(str(server.socket)) as connected:
        await connected.prepare(KEY)
        yield connected


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def submissions(server: RedisServer, queue: Queue, registry: CollectorRegistry) -> AsyncIterator[Submissions]:
    async with (
        Queue.connect(str(server.socket)) as own,
        Submissions.open(own, "front-1", capacity=20, capacity_bytes=1 << 20, metrics=FrontMetrics(registry)) as opened,
    ):
        yield opened


def job(name: str, *, within: float = 20.0) -> Job:
    inputs = {"image": Tensor("uint8", (10,), bytes(10))}
    return Job(name, inputs, ["front-1"], time.monotonic(), int(within * 1000), request_id=f"r-{name}")


def asked(submissions: Submissions, *jobs: Job, ticket: Ticket | None = None) -> list[asyncio.Task[Reply]]:
    return [asyncio.create_task(submissions.answer(KEY, j, ticket=ticket)) for j in jobs]


async def outcomes(tasks: Sequence[asyncio.Task[Reply]]) -> list[str]:
    """The answered job's id, or the error's code, of each."""
    async with asyncio.timeout(20):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if not isinstance(result, Reply | ShoalError):
            raise AssertionError(repr(result))
    return [result.job if isinstance(result, Reply) else str(getattr(result, "code", "")) for result in results]


async def claim(queue: Queue, count: int) -> list[Claimed]:
    """Exactly ``count`` jobs, as they come, from whatever Redis there is."""
    claimed: list[Claimed] = []
    async with asyncio.timeout(20):
        while len(claimed) < count:
            with suppress(QueueUnavailable):
                claimed += await queue.claim(KEY, "p1", 100, 0.2)
    return claimed


def answer(claimed: Claimed) -> tuple[Claimed, Reply]:
    return claimed, Reply(job=claimed.job.id, answer={"of": claimed.job.request_id})


async def until_depth(queue: Queue, depth: int, key: str = KEY) -> None:
    async def reached() -> bool:
        with suppress(QueueUnavailable):
            return await queue.depth(key) == depth
        return False

    await eventually_async(reached, within=10, what=f"a depth of {depth}")


def counted(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


async def test_a_reply_reaches_its_caller(submissions: Submissions, queue: Queue) -> None:
    # Given callers whose jobs are executed in another order
    tasks = asked(submissions, *(job(f"j{i}") for i in range(8)))
    claimed = await claim(queue, 8)
    assert repr(submissions) == "<Submissions of front-1: 8 unanswered>"
    for one in reversed(claimed):
        await queue.finish(KEY, [answer(one)])
    # Then each gets its own
    assert await outcomes(tasks) == [f"j{i}" for i in range(8)]
    assert [t.result().answer for t in tasks] == [{"of": f"r-j{i}"} for i in range(8)]
    assert repr(submissions) == IDLE


@pytest.mark.parametrize("error", [ModelFailed("It raised."), DeadlineExceeded("Too late."), QueueFull("No room.")])
async def test_an_error_s_reply_is_raised(submissions: Submissions, queue: Queue, error: ShoalError) -> None:
    (task,) = asked(submissions, job("a"))
    (claimed,) = await claim(queue, 1)
    await queue.finish(KEY, [(claimed, Reply(job="a", code=error.code, message=error.message))])
    with pytest.raises(type(error), match=error.message):
        await asyncio.wait_for(task, 5)


async def test_a_reply_may_come_before_the_submission_has_returned(submissions: Submissions, queue: Queue) -> None:
    async def execute() -> None:
        for _ in range(50):
            for claimed in await claim(queue, 1):
                await queue.finish(KEY, [answer(claimed)])

    executing = asyncio.create_task(execute())
    for i in range(50):
        (task,) = asked(submissions, job(f"j{i}"))
        assert await outcomes([task]) == [f"j{i}"]
    await executing


@pytest.mark.parametrize("prepared", [True, False], ids=["with a group", "before any model process came"])
@pytest.mark.parametrize("reason", ["deadline", "caller"])
async def test_a_job_that_nobody_waits_for_is_taken_back(
    submissions: Submissions, queue: Queue, registry: CollectorRegistry, reason: str, prepared: bool
) -> None:
    key = KEY if prepared else "new@1"
    task = asyncio.create_task(submissions.answer(key, job("a", within=0.3 if reason == "deadline" else 20)))
    await until_depth(queue, 1, key)
    if reason == "deadline":
        assert await outcomes([task]) == ["deadline_exceeded"]
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert repr(submissions) == IDLE
    await until_depth(queue, 0, key)
    assert counted(registry, "shoal_cancelled_total", stage="queued") == 1


async def test_a_claimed_job_is_left_to_its_process(
    submissions: Submissions, queue: Queue, registry: CollectorRegistry
) -> None:
    (task,) = asked(submissions, job("a", within=0.5))
    (claimed,) = await claim(queue, 1)
    assert await outcomes([task]) == ["deadline_exceeded"]
    assert await queue.finish(KEY, [answer(claimed)]) == 1  # nobody hears it, and nothing breaks

    async def counted_it() -> bool:
        return counted(registry, "shoal_cancelled_total", stage="claimed") == 1

    await eventually_async(counted_it, within=5, what="the count")
    assert await outcomes_of_one_more(submissions, queue) == ["next"]


async def outcomes_of_one_more(submissions: Submissions, queue: Queue) -> list[str]:
    (task,) = asked(submissions, job("next"))
    await queue.finish(KEY, [answer(c) for c in await claim(queue, 1)])
    return await outcomes([task])


async def test_a_duplicate_answer_is_ignored(submissions: Submissions, queue: Queue) -> None:
    tasks = asked(submissions, job("a"), job("b"))
    first, second = await claim(queue, 2)
    for _ in range(3):
        await queue.reply(first.job, Reply(job=first.job.id))
    await queue.finish(KEY, [answer(first), answer(second)])
    await queue.reply(second.job, Reply(job="never asked"))
    assert await outcomes(tasks) == ["a", "b"]
    assert await outcomes_of_one_more(submissions, queue) == ["next"]


async def test_what_the_queue_refuses_is_refused_at_once(submissions: Submissions, queue: Queue) -> None:
    tasks = asked(submissions, *(job(f"j{i}") for i in range(25)))
    await until_depth(queue, 20)
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION, timeout=5)
    assert {type(t.exception()) for t in done} == {QueueFull}
    await queue.finish(KEY, [answer(c) for c in await claim(queue, 20)])
    assert sorted(await outcomes(tasks)).count("queue_full") == 5


async def test_a_ticket_pays_for_its_uses(submissions: Submissions, queue: Queue) -> None:
    ticket = Ticket(
        "w", KEY, "alice", 1000, uses=2, expires=time.time() + 10, id="t", gateway="g", priority="interactive"
    )
    tasks = asked(submissions, job("a"), job("b"), ticket=ticket)
    await until_depth(queue, 2)
    with pytest.raises(SpentTicket):
        await submissions.answer(KEY, job("c"), ticket=ticket)
    await queue.finish(KEY, [answer(c) for c in await claim(queue, 2)])
    assert sorted(await outcomes(tasks)) == ["a", "b"]


async def test_a_redis_that_dies_loses_nothing(
    submissions: Submissions, queue: Queue, server: RedisServer, registry: CollectorRegistry
) -> None:
    # Given one answered job, five that wait, and one that a process has claimed
    assert await outcomes_of_one_more(submissions, queue) == ["next"]
    tasks = asked(submissions, *(job(f"j{i}") for i in range(6)))
    await until_depth(queue, 6)
    before = await queue.claim(KEY, "p1", 1, 0)
    # When Redis is killed, one more comes meanwhile, and an empty Redis starts
    server.kill()
    tasks += asked(submissions, job("meanwhile"))
    server.start()
    # Then all are in the new one, are executed, and are answered
    await until_depth(queue, 7)
    assert await queue.finish(KEY, [answer(c) for c in before]) == 0
    claimed = await claim(queue, 7)
    assert sorted(c.job.id for c in claimed) == [f"j{i}" for i in range(6)] + ["meanwhile"]
    assert await queue.finish(KEY, [answer(c) for c in claimed]) == 7
    assert await outcomes(tasks) == [f"j{i}" for i in range(6)] + ["meanwhile"]
    assert counted(registry, "shoal_resubmitted_total") == 6
    # And nothing is answered twice
    assert await queue.depth(KEY) == 0
    assert repr(submissions) == IDLE
    assert await outcomes_of_one_more(submissions, queue) == ["next"]


async def test_without_redis_a_job_waits_until_its_deadline(submissions: Submissions, server: RedisServer) -> None:
    server.kill()
    (task,) = asked(submissions, job("a", within=0.3))
    assert await outcomes([task]) == ["deadline_exceeded"]
    assert repr(submissions) == IDLE


async def test_replies_that_were_read_are_trimmed_and_forgotten(server: RedisServer, queue: Queue) -> None:
    async with (
        Queue.connect(str(server.socket)) as own,
        Submissions.open(
            own, "front-1", capacity=1000, capacity_bytes=1 << 20, metrics=FrontMetrics(CollectorRegistry())
        ) as submissions,
    ):
        tasks = asked(submissions, *(job(f"j{i}") for i in range(60)))
        for claimed in await claim(queue, 60):
            await queue.finish(KEY, [answer(claimed)])
        assert len(await outcomes(tasks)) == 60
        _, kept = await queue.replies("front-1", b"0-0", 0.01)
        assert unpack_reply(kept[-1]).job in {f"j{i}" for i in range(60)}
    assert await queue.replies("front-1", b"0-0", 0.01) == (b"0-0", [])
