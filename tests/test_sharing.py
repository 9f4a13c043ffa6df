"""Equal images share one execution and its answer, whoever asks; nobody else's end is their end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio as aioredis

from shoal.wire import Reply
from tests.clusters import eventually_async
from tests.nodes import CACHING, Held, Node, fake, node
from tests.photos import fake_label, photo
from tests.redis_servers import KINDS, RedisServer

KEY = "fake@1"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(autouse=True)
async def redis(server: RedisServer) -> AsyncIterator[aioredis.Redis]:
    async with aioredis.Redis(unix_socket_path=str(server.socket)) as client:
        await client.flushall()
        yield client


def asking(on: Node, seed: int, count: int, **options: Any) -> list[asyncio.Task[tuple[int, Any, Any]]]:
    """Equal requests at once, to the fronts in turn."""
    return [asyncio.create_task(on.post(front=n % len(on.urls), data=photo(seed), **options)) for n in range(count)]


async def waiters(redis: aioredis.Redis) -> int:
    return sum([int(await redis.hlen(key)) for key in await redis.keys("shoal:waiters:*")])


async def until_waiting(redis: aioredis.Redis, count: int) -> None:
    async def reached() -> bool:
        return await waiters(redis) == count

    await eventually_async(reached, within=10, what=f"{count} who wait")


async def until_counted(on: Node, count: float, name: str, **labels: str) -> None:
    async def reached() -> bool:
        return on.counted(name, **labels) == count

    await eventually_async(reached, within=10, what=f"{name} {count}")


async def left_behind(redis: aioredis.Redis) -> list[bytes | str]:
    return [*await redis.keys("shoal:flight:*"), *await redis.keys("shoal:waiters:*")]


def is_right(answer: tuple[int, Any, Any], seed: int) -> bool:
    return answer[0] == 200 and answer[1]["predictions"][0]["label"] == fake_label(photo(seed))


async def test_an_answer_is_kept(server: RedisServer) -> None:
    async with node(server, fake(), fronts=2, **CACHING) as on:
        first = await on.post(data=photo(1))
        second = await on.post(data=photo(1), front=1)
        assert (first[1]["cache"], first[2]["Shoal-Cache"], second[1]["cache"]) == ("miss", "miss", "hit")
        assert is_right(first, 1)
        assert is_right(second, 1)
        assert (second[1]["attempt"], second[1]["batch_size"]) == (0, 0)
        assert set(second[1]["timings"]) == {"receive", "cache"}
        assert on.counted("shoal_images_total", model=KEY) == 1
        counts = [on.counted(f"shoal_{n}_total", model=KEY) for n in ("cache_hits", "cache_misses", "shared")]
        assert counts == [1, 1, 0]
        async with on.session.get(on.urls[0] + "/metrics") as response:
            text = await response.text()
        assert float(text.partition("\nshoal_cache_bytes ")[2].split()[0]) > 300


@pytest.mark.parametrize(
    ("query", "headers", "again"),
    [
        ({"top_k": "2"}, {}, "miss"),
        ({"top_k": "5"}, {}, "miss"),  # the default said aloud is another request
        ({"cache": "0"}, {}, "off"),
        ({}, {"Cache-Control": "no-cache"}, "off"),
        ({}, {"Cache-Control": "max-age=0, no-store"}, "off"),
        ({"cache": "1", "unknown": "x"}, {}, "hit"),
    ],
)
async def test_what_makes_another_answer(
    server: RedisServer, query: dict[str, str], headers: dict[str, str], again: str
) -> None:
    async with node(server, fake(), **CACHING) as on:
        await on.post(data=photo(1))
        status, document, said = await on.post(data=photo(1), params=query, headers=headers)
        assert (status, document["cache"], said["Shoal-Cache"]) == (200, again, again)
        assert on.counted("shoal_images_total", model=KEY) == (1 if again == "hit" else 2)


@pytest.mark.parametrize(("header", "after"), [("no-cache", "hit"), ("no-store", "miss")])
async def test_who_wants_no_kept_answer_may_leave_one(server: RedisServer, header: str, after: str) -> None:
    async with node(server, fake(), **CACHING) as on:
        await on.post(data=photo(1), headers={"Cache-Control": header})
        _, document, _ = await on.post(data=photo(1))
        assert document["cache"] == after


async def test_nothing_is_kept_unless_it_is_wanted(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake()) as on:
        caches = [(await on.post(data=photo(1)))[1]["cache"] for _ in range(2)]
        assert caches == ["off", "off"]
        assert on.counted("shoal_images_total", model=KEY) == 2
        assert await redis.exists("shoal:cache") == 0


async def test_models_do_not_mix(server: RedisServer) -> None:
    async with node(server, fake("one"), fake("two"), **CACHING) as on:
        for model in ("one", "two"):
            _, document, _ = await on.post(data=photo(1), params={"model": model})
            assert (document["model"], document["cache"]) == (model, "miss")


async def test_an_answer_is_kept_for_its_lifetime(server: RedisServer) -> None:
    async with node(server, fake(), cache_lifetime=0.2, **CACHING) as on:
        await on.post(data=photo(1))

        async def is_gone() -> bool:
            return await on.queue.cached_bytes() == 0

        await eventually_async(is_gone, within=5, what="an end")
        assert (await on.post(data=photo(1)))[1]["cache"] == "miss"


async def test_the_cache_has_its_size_to_the_byte(server: RedisServer, redis: aioredis.Redis) -> None:
    """Never more than it may have, what was used longest ago goes first, and the count is what is there."""
    most = 3000
    async with node(server, fake(), cache_bytes=most) as on:
        held = []
        for seed in range(12):
            await on.post(data=photo(seed))
            if seed:
                assert (await on.post(data=photo(0)))[1]["cache"] == "hit"  # what is used stays
            entries = await redis.hgetall("shoal:cache")
            held.append(await on.queue.cached_bytes())
            assert held[-1] == sum(256 + len(name) + len(value) for name, value in entries.items()) <= most
            assert len(entries) == await redis.zcard("shoal:cache:used") == await redis.zcard("shoal:cache:ends")
        assert held[-1] == held[-2] > most / 2
        assert (await on.post(data=photo(1)))[1]["cache"] == "miss"


async def test_an_error_is_shared_and_never_kept(server: RedisServer, redis: aioredis.Redis) -> None:
    held = fake(held=True, fail_on=fake_label(photo(1)))
    assert isinstance(held, Held)
    async with node(server, held, fronts=2, **CACHING) as on:
        tasks = asking(on, 1, 6)
        await until_waiting(redis, 6)
        held.released.set()
        answers = await asyncio.gather(*tasks)
        assert {(status, document["error"]["code"]) for status, document, _ in answers} == {(500, "model_failed")}
        assert held.seen == [1]
        assert await redis.exists("shoal:cache") == 0
        await on.post(data=photo(1))
        assert held.seen == [1, 1]


async def test_fifty_at_once_are_one_execution(server: RedisServer, redis: aioredis.Redis) -> None:
    held = fake(held=True)
    assert isinstance(held, Held)
    async with node(server, held, fronts=2, **CACHING) as on:
        tasks = asking(on, 1, 50)
        await until_waiting(redis, 50)
        held.released.set()
        answers = await asyncio.gather(*tasks)
        assert all(is_right(answer, 1) for answer in answers)
        assert Counter(document["cache"] for _, document, _ in answers) == {"miss": 1, "shared": 49}
        assert on.counted("shoal_images_total", model=KEY) == 1
        assert on.counted("shoal_shared_total", model=KEY) == 49
        assert await left_behind(redis) == []


@pytest.mark.parametrize("victim", [0, 1, 25], ids=["the leader", "a follower elsewhere", "a follower"])
async def test_one_that_leaves_takes_nothing_from_the_others(
    server: RedisServer, redis: aioredis.Redis, victim: int
) -> None:
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        tasks = asking(on, 1, 1)
        await until_waiting(redis, 1)
        tasks += [asyncio.create_task(on.post(front=n % 2, data=photo(1))) for n in range(1, 50)]
        await until_waiting(redis, 50)
        tasks[victim].cancel()
        await until_waiting(redis, 49)
        on.executing()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(not isinstance(a, BaseException) and is_right(a, 1) for a in answers) == 49
        assert on.counted("shoal_images_total", model=KEY) == 1


async def test_when_all_have_left_the_job_is_taken_back(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        tasks = asking(on, 1, 20)
        await until_waiting(redis, 20)
        assert await on.queue.depth(KEY) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until_counted(on, 1, "shoal_cancelled_total", stage="queued")
        assert (await on.queue.depth(KEY), await redis.get(f"shoal:{KEY}:bytes")) == (0, b"0")
        assert await left_behind(redis) == []
        on.executing()
        assert is_right(await on.post(data=photo(1)), 1)


async def test_a_leader_s_deadline_is_its_own(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        (leader,) = asking(on, 1, 1, headers={"Shoal-Timeout-Ms": "700"})
        await until_waiting(redis, 1)
        followers = asking(on, 1, 4)
        status, document, _ = await leader
        assert (status, document["error"]["code"]) == (504, "deadline_exceeded")
        await until_waiting(redis, 4)
        on.executing()  # the job is past its deadline; one of the others leads another
        assert all(is_right(answer, 1) for answer in await asyncio.gather(*followers))
        assert on.counted("shoal_expired_total", model=KEY) == 1
        assert on.counted("shoal_images_total", model=KEY) == 1


async def test_a_follower_s_deadline_is_its_own(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        (leader,) = asking(on, 1, 1)
        await until_waiting(redis, 1)
        (follower,) = asking(on, 1, 1, headers={"Shoal-Timeout-Ms": "300"})
        assert (await follower)[1]["error"]["code"] == "deadline_exceeded"
        on.executing()
        assert is_right(await leader, 1)


async def test_a_dead_front_s_jobs_stay_for_those_who_wait(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        (leader,) = asking(on, 1, 1)
        await until_waiting(redis, 1)
        follower = asyncio.create_task(on.post(front=1, data=photo(1)))
        await until_waiting(redis, 2)
        assert await on.queue.abandon(KEY, "front0") == 0  # as the supervisor does for a dead one
        assert await waiters(redis) == 1
        leader.cancel()
        on.executing()
        assert is_right(await follower, 1)


async def test_a_dead_front_s_job_goes_with_its_last_waiter(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), executing=False, **CACHING) as on:
        tasks = asking(on, 1, 3)
        await until_waiting(redis, 3)
        assert await on.queue.abandon(KEY, "front0") == 1
        assert (await on.queue.depth(KEY), await left_behind(redis)) == (0, [])
        for task in tasks:
            task.cancel()


async def test_a_killed_model_process_answers_all_who_wait(server: RedisServer, redis: aioredis.Redis) -> None:
    """Reclaimed once, and executed; an image that kills is given up for all."""
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        tasks = asking(on, 1, 4)
        await until_waiting(redis, 4)
        assert len(await on.queue.claim(KEY, "dead", 10, 0)) == 1
        assert await on.queue.reclaim(KEY, "dead") == (1, [])
        late = asking(on, 1, 2)
        await until_waiting(redis, 6)
        on.executing()
        answers = await asyncio.gather(*tasks, *late)
        assert all(is_right(answer, 1) for answer in answers)
        assert {document["attempt"] for _, document, _ in answers} == {2}


async def test_an_image_that_kills_is_given_up_for_all(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), fronts=2, executing=False, **CACHING) as on:
        tasks = asking(on, 1, 4)
        await until_waiting(redis, 4)
        culprits = []
        for _ in range(3):
            await on.queue.claim(KEY, "dead", 10, 0)
            culprits = (await on.queue.reclaim(KEY, "dead"))[1]
        (culprit,) = culprits
        await on.queue.reply(culprit, Reply(job=culprit.id, code="model_crashed"))
        await on.queue.quarantine(KEY, culprit)
        codes = {document["error"]["code"] for _, document, _ in await asyncio.gather(*tasks)}
        assert codes == {"model_crashed"}
        assert (await on.post(data=photo(1)))[1]["error"]["code"] == "quarantined"
        assert await left_behind(redis) == []


async def test_a_taken_back_version_ends_its_flights(server: RedisServer, redis: aioredis.Redis) -> None:
    async with node(server, fake(), executing=False, **CACHING) as on:
        (task,) = asking(on, 1, 1)
        await until_waiting(redis, 1)
        await on.queue.forget_model(KEY)
        assert await left_behind(redis) == []
        task.cancel()


async def test_without_redis_the_cache_is_a_miss(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Answers of requests that were in flight when Redis died are neither lost nor multiplied."""
    with RedisServer(KINDS[-1], tmp_path_factory.mktemp("redis")) as server:
        held = fake(held=True)
        assert isinstance(held, Held)
        async with (
            node(server, held, fronts=2, **CACHING) as on,
            aioredis.Redis(unix_socket_path=str(server.socket)) as client,
        ):
            tasks = asking(on, 1, 10)
            await until_waiting(client, 10)
            server.kill()
            tasks += asking(on, 1, 10)
            server.start()
            await until_waiting(client, 20)
            held.released.set()
            answers = await asyncio.gather(*tasks)
            assert all(is_right(answer, 1) for answer in answers)
            assert len(held.seen) == 2  # what died with its Redis, and the one that was submitted again
            assert is_right(await on.post(data=photo(2)), 2)
