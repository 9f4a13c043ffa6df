"""Pictures by URL: what is fetched, and above all what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shoal.errors import InvalidUrl, ShoalError, UrlNotAllowed
from tests.nodes import Node, fake, node
from tests.photos import fake_label, photo
from tests.redis_servers import KINDS, RedisServer
from worker.fetching import Fetcher, is_allowed

LOOPBACK = ("127.0.0.0/8",)

# What is not for everybody, however it is written (RFC 6890, 4291, 6052, 3056, 4380).
FORBIDDEN = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("2001:0:4136:e378:8000:63bf:80ff:fffe", "2001::1", "100::1"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("text", FORBIDDEN)
def test_addresses_that_are_not_for_everybody(text: str) -> None:
    assert not is_allowed(ip_address(text), [])


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are_for_everybody(text: str) -> None:
    assert is_allowed(ip_address(text), [])


@pytest.mark.parametrize(
    ("text", "networks", "expected"),
    [
        ("10.1.2.3", ["10.1.0.0/16"], True),
        ("10.2.2.3", ["10.1.0.0/16"], False),
        ("::ffff:10.1.2.3", ["10.1.0.0/16"], True),
        ("fd00::1", ["fd00::/8", "10.0.0.0/8"], True),
        ("64:ff9b::10.1.2.3", ["10.1.0.0/16"], True),
        ("64:ff9b::10.2.2.3", ["10.1.0.0/16"], False),
        ("224.0.0.1", ["10.0.0.0/8"], False),
    ],
)
def test_networks_that_the_settings_name(text: str, networks: list[str], expected: bool) -> None:
    assert is_allowed(ip_address(text), [ip_network(network) for network in networks]) is expected


async def nowhere(host: str) -> list[str]:
    raise OSError(f"{host} is not known")


async def refusal(url: str, *hosts: str, resolve: Any = nowhere) -> type[ShoalError]:
    async with Fetcher.open(hosts=hosts, networks=(), timeout=2, most=2, resolve=resolve) as fetcher:
        with pytest.raises(ShoalError) as caught:
            await fetcher.fetch_all([url], 1000, 2)
    return type(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "pictures.example", "//pictures.example/a.jpg", "/a.jpg", "http://", "http:///a.jpg", "https://?x"),
        *("ftp://pictures.example/a", "file:///etc/passwd", "data:image/png;base64,AAAA", "gopher://pictures.example/"),
        *("http://me:secret@pictures.example/a", "http://me@pictures.example/a", "http://@pictures.example@x/"),
        *("http://pictures.example:99999/a", "http://pictures.example:x/a", "http://[::1", "http://[fe80::1%25eth0]/"),
        *("http://pictures.example /a", "http://pictures.example\\@evil.example/", "http://pictures.example/\n"),
        "http://pictures.example/" + "a" * 5000,
    ],
)
async def test_what_is_no_url_of_a_picture(url: str) -> None:
    assert await refusal(url, "pictures.example", "*.example") is InvalidUrl


@pytest.mark.parametrize(
    "url",
    [
        *("http://evil.example/", "http://pictures.example.evil.example/", "http://xpictures.example/"),
        *("http://pictures.example:8080/", "https://pictures.example:80/", "http://shop.example/"),
        *("http://2130706433/", "http://0x7f000001/", "http://127.0.0.1/", "http://[::ffff:7f00:1]/"),
        *("http://a.shop.example:444/", "http://pictures.example./"),
    ],
)
async def test_hosts_that_the_settings_do_not_name(url: str) -> None:
    assert await refusal(url, "pictures.example", "*.shop.example", "shop.example:8443") is UrlNotAllowed


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://169.254.169.254/latest/", "http://10.0.0.1/"])
async def test_an_address_that_is_named_must_be_public_too(url: str) -> None:
    assert await refusal(url, "127.0.0.1", "169.254.169.254", "10.0.0.1") is UrlNotAllowed


@pytest.mark.parametrize("url", ["http://pictures.example/", "https://a.shop.example/", "http://PICTURES.example:80/"])
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"], ["rubbish"]])
async def test_every_address_of_a_name_must_be_public(url: str, addresses: list[str]) -> None:
    async def resolve(host: str) -> Sequence[str]:
        return addresses

    assert await refusal(url, "pictures.example", "*.shop.example", resolve=resolve) is UrlNotAllowed


# With real servers

COOKIES: list[str] = []


@asynccontextmanager
async def pictures() -> AsyncIterator[TestServer]:
    """A picture store on loopback, with its vices."""

    async def picture(request: web.Request) -> web.Response:
        COOKIES.append(request.headers.get("Cookie", ""))
        assert request.headers["Accept-Encoding"] == "identity"
        assert "Authorization" not in request.headers
        response = web.Response(body=photo(int(request.match_info["seed"])), content_type="image/jpeg")
        response.set_cookie("seen", "1")
        return response

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/photo/1")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if "length" in request.query:
            response.content_length = 5_000_000_000
        await response.prepare(request)
        while True:
            await response.write(bytes(100_000))

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    async def squeezed(request: web.Request) -> web.Response:
        return web.Response(body=photo(1), headers={"Content-Encoding": "gzip"})

    async def nothing(request: web.Request) -> web.Response:
        return web.Response(body=b"")

    async def absent(request: web.Request) -> web.Response:
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/photo/{seed}", picture)
    for handler in (moved, endless, trickle, squeezed, nothing, absent):
        app.router.add_get(f"/{handler.__name__}", handler)
    server = TestServer(app, handler_cancellation=True)
    await server.start_server()
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(KINDS[-1], tmp_path_factory.mktemp("redis")) as running:
        yield running


async def loopback(host: str) -> list[str]:
    return ["127.0.0.1"]


@asynccontextmanager
async def store(redis: RedisServer, **limits: Any) -> AsyncIterator[tuple[Node, str]]:
    """A node that may fetch from a picture store, and the store's URL."""
    async with pictures() as server:
        defaults = {"url_hosts": (f"pictures.example:{server.port}",), "url_networks": LOOPBACK}
        async with node(redis, fake(), **{"resolve": loopback, **defaults, **limits}) as on:
            yield on, f"http://pictures.example:{server.port}"


async def code(on: Node, body: Any, **options: Any) -> tuple[int, str]:
    status, document, _ = await on.post(json=body, **options)
    assert status == 200 or "?" not in document["error"]["message"]
    return status, "ok" if status == 200 else document["error"]["code"]


async def test_a_picture_by_url(redis: RedisServer) -> None:
    async with store(redis) as (on, url):
        for _ in range(2):
            status, document, _ = await on.post(json={"url": f"{url}/photo/7?secret=1#x"})
            assert (status, document["predictions"][0]["label"]) == (200, fake_label(photo(7)))
        assert "fetch" in document["timings"]
        status, document, _ = await on.post(json={"urls": [f"{url}/photo/{n}" for n in (3, 1, 2)]})
        assert [a["predictions"][0]["label"] for a in document["answers"]] == [fake_label(photo(n)) for n in (3, 1, 2)]
        assert set(COOKIES) == {""}


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/moved", 424, "fetch_failed"),
        ("/absent", 424, "fetch_failed"),
        ("/squeezed", 424, "fetch_failed"),
        ("/nothing", 400, "empty_body"),
        ("/endless", 413, "body_too_large"),
        ("/endless?length=1", 413, "body_too_large"),
        ("/trickle", 424, "fetch_timeout"),
    ],
)
async def test_what_a_host_may_do_to_us(redis: RedisServer, path: str, status: int, expected: str) -> None:
    async with store(redis, url_timeout=1.0) as (on, url):
        assert await code(on, {"url": url + path}) == (status, expected)
        assert await code(on, {"url": f"{url}/photo/1"}) == (200, "ok")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"url": 7}, "invalid_request"),
        ({"url": "http://a/", "more": 1}, "invalid_request"),
        ({"urls": []}, "invalid_request"),
        ({"urls": ["http://a/", 7]}, "invalid_request"),
        ({"urls": ["http://a/"] * 17}, "invalid_request"),
        ({"link": "http://a/"}, "invalid_request"),
        (["http://a/"], "invalid_request"),
        ({"url": "nonsense"}, "invalid_url"),
        ({"url": "http://elsewhere.example/"}, "url_not_allowed"),
        ({"url": "x" * 70_000}, "body_too_large"),
    ],
)
async def test_what_is_no_request_for_a_picture(redis: RedisServer, body: Any, expected: str) -> None:
    async with store(redis) as (on, _):
        assert (await code(on, body))[1] == expected
        assert (await on.post(data=b"{", headers={"Content-Type": "application/json"}))[0] == 400


async def test_nothing_is_fetched_unless_the_settings_say_so(redis: RedisServer) -> None:
    async with store(redis, url_hosts=()) as (on, url):
        assert await code(on, {"url": f"{url}/photo/1"}) == (403, "url_disabled")
    async with store(redis, url_networks=()) as (on, url):
        assert await code(on, {"url": f"{url}/photo/1"}) == (403, "url_not_allowed")


async def test_a_host_that_is_not_there(redis: RedisServer) -> None:
    async with store(redis, resolve=nowhere) as (on, url):
        assert await code(on, {"url": f"{url}/photo/1"}) == (424, "fetch_failed")
    async with store(redis, url_hosts=("pictures.example:1",)) as (on, _):
        assert await code(on, {"url": "http://pictures.example:1/"}) == (424, "fetch_failed")


async def test_a_name_is_resolved_once_and_the_connection_goes_there(redis: RedisServer) -> None:
    """A name that means something else the second time changes nothing: there is no second time."""
    asked: list[str] = []

    async def rebinding(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.255.255.1"]

    async with store(redis, resolve=rebinding) as (on, url):
        assert await code(on, {"url": f"{url}/photo/1"}) == (200, "ok")
        assert asked == ["pictures.example"]
        assert await code(on, {"url": f"{url}/photo/1"}) == (403, "url_not_allowed")


async def test_no_proxy_of_the_environment_is_used(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with store(redis) as (on, url):
        assert await code(on, {"url": f"{url}/photo/1"}) == (200, "ok")


async def test_fetches_take_turns(redis: RedisServer) -> None:
    async with store(redis, url_fetches=1, url_timeout=0.5) as (on, url):
        slow = asyncio.create_task(code(on, {"url": f"{url}/trickle"}))
        quick = asyncio.create_task(code(on, {"url": f"{url}/photo/1"}))
        assert (await slow)[1] == "fetch_timeout"
        assert (await quick)[1] in ("ok", "fetch_timeout")
        assert await code(on, {"url": f"{url}/photo/1"}) == (200, "ok")


async def test_a_fetch_ends_with_the_request_s_deadline(redis: RedisServer) -> None:
    async with store(redis) as (on, url):
        headers = {"Shoal-Timeout-Ms": "300"}
        assert (await code(on, {"url": f"{url}/trickle"}, headers=headers))[1] == "fetch_timeout"
