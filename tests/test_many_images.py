"""Many images in one request: all or none of them, each answer its own, in their order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aioredis

from shoal.wire import ImageInput
from tests.clusters import eventually_async
from tests.nodes import CACHING, Node, fake, node
from tests.photos import fake_label, photo
from tests.redis_servers import KINDS, RedisServer

KEY = "fake@1"
REQUESTS = 2000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(KINDS[-1], tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
async def redis(server: RedisServer) -> AsyncIterator[aioredis.Redis]:
    async with aioredis.Redis(unix_socket_path=str(server.socket)) as client:
        await client.flushall()
        yield client


def form(*images: bytes, field: str = "image") -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("note", "not an image")
    for number, image in enumerate(images):
        data.add_field(field, image, filename=f"{number}.jpg", content_type="image/jpeg")
    return data


def labels(document: Any) -> list[str]:
    return [answer["predictions"][0]["label"] for answer in document["answers"]]


@pytest.mark.parametrize("limits", [{}, CACHING], ids=["plain", "caching"])
async def test_each_answer_is_its_image_s_in_order(server: RedisServer, limits: dict[str, Any]) -> None:
    async with node(server, fake(max_batch_size="4"), **limits) as on:
        seeds = [3, 1, 2, 1, 5, 3, 9]
        status, document, headers = await on.post(data=form(*map(photo, seeds)))
        assert status == 200
        assert labels(document) == [fake_label(photo(seed)) for seed in seeds]
        assert (document["success"], document["model"], document["version"]) == (True, "fake", "1")
        caches = [answer["cache"] for answer in document["answers"]]
        expected = ["miss", "miss", "miss", "shared", "miss", "shared", "miss"] if limits else ["off"] * 7
        assert caches == expected == headers["Shoal-Cache"].split(", ")
        assert on.counted("shoal_images_total", model=KEY) == (5 if limits else 7)


async def test_known_images_are_not_executed_beside_new_ones(server: RedisServer) -> None:
    async with node(server, fake(), **CACHING) as on:
        await on.post(data=photo(1))
        _, document, _ = await on.post(data=form(photo(0), photo(1), photo(2)))
        assert [answer["cache"] for answer in document["answers"]] == ["miss", "hit", "miss"]
        assert labels(document) == [fake_label(photo(seed)) for seed in range(3)]
        assert on.counted("shoal_images_total", model=KEY) == 3


async def test_pairs_of_many_are_lists_of_lists(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        _, document, _ = await on.post("/", data=form(photo(1), photo(2)), params={"top_k": "1"})
        assert [[pair[0] for pair in pairs] for pairs in document] == [[fake_label(photo(1))], [fake_label(photo(2))]]


async def test_one_image_in_a_form_is_answered_as_ever(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        _, document, _ = await on.post(data=form(photo(1), field="data"))
        assert "answers" not in document
        assert document["predictions"][0]["label"] == fake_label(photo(1))


@pytest.mark.parametrize(
    ("images", "status", "code", "says"),
    [
        ([photo(1), photo(2)[:200], photo(3)], 422, "invalid_image", "Image 2: "),
        ([photo(1), b"no image at all", photo(3)], 415, "unsupported_image", "Image 2: "),
        ([photo(1), photo(2), b""], 400, "empty_body", "Image 3 "),
        ([photo(n) for n in range(5)], 400, "invalid_request", "more than 4"),
        ([photo(1, width=600, height=600), photo(2, width=900, height=900)], 422, "too_many_pixels", "together"),
        ([photo(1, width=6000, height=200), photo(2)], 422, "too_many_pixels", "Image 1: "),
    ],
)
async def test_one_bad_image_fails_all_before_anything_is_submitted(
    server: RedisServer, redis: aioredis.Redis, images: list[bytes], status: int, code: str, says: str
) -> None:
    async with node(server, fake(), images_per_request=4, **CACHING) as on:
        got, document, _ = await on.post(data=form(*images))
        assert (got, document["error"]["code"]) == (status, code)
        assert says in document["error"]["message"]
        assert on.counted("shoal_images_total", model=KEY) == 0
        assert await redis.keys("shoal:flight:*") == []
        assert (await on.post(data=photo(1)))[0] == 200


async def test_the_byte_limit_is_of_all_images_together(server: RedisServer) -> None:
    most = len(photo(1)) + len(photo(2))

    async def chunked() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + photo(number) + b"\r\n"
        yield b"--b--\r\n"

    async with node(server, fake(), max_body_bytes=most) as on:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        status, document, _ = await on.post(data=chunked(), headers=headers)
        assert (status, document["error"]["code"]) == (413, "body_too_large")


async def test_there_is_room_for_all_or_for_none(server: RedisServer) -> None:
    async with node(server, fake(), executing=False, capacity=8) as on:
        first = asyncio.create_task(on.post(data=form(*map(photo, range(5)))))

        async def five() -> bool:
            return await on.queue.depth(KEY) == 5

        await eventually_async(five, within=5, what="five jobs")
        status, document, _ = await on.post(data=form(*map(photo, range(10, 14))))
        assert (status, document["error"]["code"], document["error"]["retryable"]) == (429, "queue_full", True)
        assert await on.queue.depth(KEY) == 5
        second = asyncio.create_task(on.post(data=form(*map(photo, range(20, 23)))))
        on.executing()
        assert [(await task)[0] for task in (first, second)] == [200, 200]


async def test_the_first_failure_takes_the_others_back(server: RedisServer) -> None:
    bad = fake_label(photo(0))
    async with node(server, fake(max_batch_size="1", seconds_per_execution="0.3", fail_on=bad)) as on:
        status, document, _ = await on.post(data=form(*map(photo, range(6))))
        assert (status, document["error"]["code"]) == (500, "model_failed")

        async def empty() -> bool:
            return await on.queue.depth(KEY) == 0

        await eventually_async(empty, within=5, what="an empty queue")
        assert on.counted("shoal_images_total", model=KEY) <= 2


async def test_every_answer_belongs_to_its_image(server: RedisServer) -> None:
    """Mixed requests to several models at once, some of them given up."""
    sizes = {"one": 1, "seven": 7, "many": 64}
    models = [
        fake(name, max_batch_size=str(most), seconds_per_execution="0.001", size=str(8 * number))
        for number, (name, most) in enumerate(sizes.items(), 1)
    ]
    sides = {m.card.model: m.card.input.height for m in models}
    dice = random.Random(4)
    answered = cancelled = 0
    gate = asyncio.Semaphore(64)

    async def ask(on: Node) -> None:
        nonlocal answered, cancelled
        model, count = dice.choice(list(sizes)), dice.choice((1, 1, 1, 1, 2, 3, 9))
        seeds = [dice.randrange(60) for _ in range(count)]
        data: Any = photo(seeds[0], width=40, height=40) if count == 1 else _small(seeds)
        asking = asyncio.create_task(on.post(front=dice.randrange(2), data=data, params=_options(model, dice)))
        if dice.random() < 0.1:
            await asyncio.wait([asking], timeout=dice.random() * 0.02)
            cancelled += asking.cancel()
            await asyncio.wait([asking])
            if asking.cancelled():
                return
        status, document, _ = await asking
        assert status == 200, document
        spec = ImageInput("image", sides[model], sides[model], "squash")
        expected = [fake_label(photo(seed, width=40, height=40), spec) for seed in seeds]
        assert (labels(document) if count > 1 else [document["predictions"][0]["label"]]) == expected
        assert document["model"] == model
        answered += count

    async def ask_in_turn(on: Node) -> None:
        async with gate:
            await ask(on)

    async with node(server, *models, fronts=2, cache_bytes=20_000, cache_lifetime=0.5) as on:
        async with asyncio.TaskGroup() as group:
            for _ in range(REQUESTS):
                group.create_task(ask_in_turn(on))
        states = [on.counted(f"shoal_{name}_total", model=f"{m}@1") for name in _STATES for m in sizes]
        assert answered > REQUESTS
        assert cancelled > 20
        assert sum(states) > 100  # hits and shared ones were among them

        async def empty() -> bool:
            return not any([await on.queue.depth(f"{name}@1") for name in sizes])

        await eventually_async(empty, within=5, what="empty queues")


_STATES = ("cache_hits", "shared")


def _small(seeds: list[int]) -> aiohttp.FormData:
    return form(*(photo(seed, width=40, height=40) for seed in seeds))


def _options(model: str, dice: random.Random) -> dict[str, str]:
    return {"model": model} | dice.choice(({}, {"cache": "0"}, {"top_k": "2"}, {"priority": "bulk"}))
