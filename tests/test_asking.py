"""What a request may ask for: the options of its model's card, pictures with boxes; checked on its head."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis.asyncio as aioredis
from PIL import Image

from shoal.wire import ImageInput, ModelCard, Option
from tests.nodes import CACHING, Node, fake, node
from tests.photos import photo
from tests.redis_servers import KINDS, RedisServer
from worker.models.runtime import Array, Asked

OPTIONS = {"threshold": Option(0, 1), "most": Option(1, 300, whole=True), "shift": Option(-2.5, 2.5)}
BOX = [80.0, 120.0, 400.0, 360.0]
LARGE = photo(1, width=640, height=480)  # a small one would be enlarged for its letters


@dataclass(frozen=True)
class Finder:
    """Says what it was asked, and finds the same box in every picture."""

    card: ModelCard

    def warm_up(self) -> None:
        """Nothing to do."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        found = {"label": "thing", "index": 3, "probability": 0.75, "box": BOX}
        return [
            {
                "predictions": [found],
                "asked": dict(one.options),
                "frame": one.frame and [one.frame.width, one.frame.height],
                "shape": list(image.shape),
            }
            for image, one in zip(batch, asked, strict=True)
        ]


def finder(**fields: Any) -> Finder:
    spec = ImageInput("image", 32, 32, "letterbox", channels=fields.pop("channels", 3))
    return Finder(ModelCard("finder", "1", "d", "detection", spec, 8, options=OPTIONS, boxes=True, **fields))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(KINDS[-1], tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
async def empty(server: RedisServer) -> None:
    async with aioredis.Redis(unix_socket_path=str(server.socket)) as client:
        await client.flushall()


async def asked(on: Node, **query: str) -> Any:
    status, document, _ = await on.post(data=photo(1), params=query)
    return document["asked"] if status == 200 else document["error"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {}),
        ({"threshold": "0.25", "most": "7"}, {"threshold": 0.25, "most": 7}),
        ({"threshold": "0", "shift": "-2.5"}, {"threshold": 0.0, "shift": -2.5}),
        ({"threshold": "1."}, {"threshold": 1.0}),
        ({"top_k": "nonsense", "unknown": "x"}, {}),  # not of this model
    ],
)
async def test_a_model_is_asked_what_its_card_says(
    server: RedisServer, query: dict[str, str], expected: dict[str, float]
) -> None:
    async with node(server, finder()) as on:
        assert await asked(on, **query) == expected


@pytest.mark.parametrize("text", ["1.01", "-0.1", "nan", "inf", "1e-3", "", "0,5", "\u0661", "0x1", "9" * 400])
async def test_a_number_that_an_option_is_not(server: RedisServer, text: str) -> None:
    async with node(server, finder()) as on:
        error = await asked(on, threshold=text)
        assert (error["code"], error["message"]) == ("invalid_option", "threshold is a number from 0 to 1.")


@pytest.mark.parametrize("text", ["0", "301", "1.5", "-1", "many", "1_0"])
async def test_a_whole_number_that_an_option_is_not(server: RedisServer, text: str) -> None:
    async with node(server, finder()) as on:
        error = await asked(on, most=text)
        assert (error["code"], error["message"]) == ("invalid_option", "most is a whole number from 1 to 300.")


@pytest.mark.parametrize("name", ["cache", "render"])
async def test_a_switch_is_on_or_off(server: RedisServer, name: str) -> None:
    async with node(server, finder()) as on:
        assert (await asked(on, **{name: "yes"}))["message"] == f"{name} is 0 or 1."


@pytest.mark.parametrize("channels", [1, 3])
async def test_a_job_has_its_frame_and_its_channels(server: RedisServer, channels: int) -> None:
    async with node(server, finder(channels=channels)) as on:
        _, document, _ = await on.post(data=photo(1))
        assert (document["frame"], document["shape"]) == ([160, 120], [32, 32, channels])


async def test_a_card_may_forbid_the_cache(server: RedisServer) -> None:
    async with node(server, finder(cacheable=False), **CACHING) as on:
        assert [(await on.post(data=photo(1)))[1]["cache"] for _ in range(2)] == ["off", "off"]
        async with on.session.get(on.urls[0] + "/load") as response:
            assert (await response.json())["models"]["finder@1"]["caches"] is False


@pytest.mark.parametrize("caches", [True, False])
async def test_a_load_report_says_whether_answers_are_kept(server: RedisServer, caches: bool) -> None:
    async with (
        node(server, fake(), **(CACHING if caches else {})) as on,
        on.session.get(on.urls[0] + "/load") as response,
    ):
        assert (await response.json())["models"]["fake@1"]["caches"] is caches


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({"render": "1"}, {}),
        ({}, {"Accept": "image/jpeg"}),
        ({}, {"Accept": "application/json;q=0.5, image/jpeg"}),
        ({"render": "1"}, {"Accept": "application/json"}),
    ],
)
async def test_a_picture_with_its_boxes(server: RedisServer, query: dict[str, str], headers: dict[str, str]) -> None:
    async with node(server, finder(), **CACHING) as on:
        for cache in ("miss", "hit"):
            status, body, said = await on.post(data=LARGE, params=query, headers=headers | {"X-Request-ID": "abc"})
            assert (status, said["Content-Type"], said["Shoal-Cache"]) == (200, "image/jpeg", cache)
            assert [said[f"Shoal-{n}"] for n in ("Model", "Version", "Worker")] == ["finder", "1", "worker"]
            assert said["X-Request-ID"] == "abc"
            assert "render;dur=" in said["Server-Timing"]
            drawn = np.asarray(Image.open(io.BytesIO(body))).astype(int)
            plain = np.asarray(Image.open(io.BytesIO(LARGE))).astype(int)
            assert drawn.shape == plain.shape
            changed = np.abs(drawn - plain).max(axis=2) > 64
            assert changed[120:360, 78:86].any(axis=1).mean() > 0.8  # the left edge of the box
            assert changed[370:, 410:].mean() < 0.1


@pytest.mark.parametrize(
    ("query", "accept"),
    [({}, "*/*"), ({}, "image/jpeg;q=0.1, */*"), ({"render": "0"}, "image/jpeg"), ({}, "text/html")],
)
async def test_who_wants_no_picture_gets_none(server: RedisServer, query: dict[str, str], accept: str) -> None:
    async with node(server, finder()) as on:
        _, document, _ = await on.post(data=photo(1), params=query, headers={"Accept": accept})
        assert document["predictions"][0]["box"] == BOX


async def test_a_model_without_boxes_draws_none_and_says_so_on_the_head(server: RedisServer) -> None:
    async with node(server, fake()) as on:
        body = photo(1) + bytes(500_000)
        asking: list[dict[str, Any]] = [{"params": {"render": "1"}}, {"headers": {"Accept": "image/jpeg"}}]
        for options in asking:
            status, document, _ = await on.post(data=body, expect100=True, **options)
            assert (status, document["error"]["code"]) == (400, "wrong_task")


async def test_one_picture_is_drawn_at_a_time(server: RedisServer) -> None:
    async with node(server, finder()) as on:
        form = aiohttp.FormData()
        for seed in (1, 2):
            form.add_field("image", photo(seed), filename="a.jpg")
        status, document, _ = await on.post(data=form, params={"render": "1"})
        assert (status, document["error"]["code"]) == (400, "invalid_request")
