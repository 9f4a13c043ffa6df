"""Discovery: one set of promises, kept by every backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pytest

from discovery import Directory, Discovery, Member, connect, srv_name
from tests.consul_server import ConsulServer
from tests.discovery_tools import consul_binary, member_process, readiness, until, until_names, worker

CHECK_INTERVAL = 1.0


@dataclass(frozen=True)
class Place:
    """A backend under test: its URL, and how long a killed member may stay."""

    url: str
    killed_within: float


@pytest.fixture(scope="module")
def consul_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with ConsulServer(consul_binary(), tmp_path_factory.mktemp("consul")) as server:
        yield server


@pytest.fixture(params=["file", "consul"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Place(f"file://{tmp_path}/members", 2.0)
    server: ConsulServer = request.getfixturevalue("consul_server")
    prefix = f"shoal-{abs(hash(request.node.nodeid)) % 10**8}"  # every test has a fleet of its own
    return Place(f"{server.url}?service_prefix={prefix}&check_interval={CHECK_INTERVAL}", CHECK_INTERVAL + 1)


@pytest.fixture
async def discovery(place: Place) -> AsyncIterator[Discovery]:
    async with connect(place.url, snapshot_timeout=10) as connected:
        yield connected


@pytest.fixture
async def ready_url() -> AsyncIterator[str]:
    async with readiness() as url:
        yield url


async def test_the_first_snapshot_of_nobody_is_empty(discovery: Discovery) -> None:
    async with discovery.watch("worker") as watch:
        assert repr(watch.directory) == "<Directory worker: 0 ready, index 1>"


async def test_a_member_appears_whole(discovery: Discovery, ready_url: str) -> None:
    member = Member(
        role="worker",
        name="node-1",
        incarnation="node-1-a",
        internal_url=ready_url,
        public_url="http://192.0.2.7:8601",
        zone="Zürich B",
        version="0.1.0",
        models=MappingProxyType({"résnet@1": "ready", "digits@2": "loading"}),
    )
    async with discovery.watch("worker") as watch, discovery.membership(member):
        assert (await until_names(watch, "node-1")).members == (member,)
        async with discovery.watch("worker") as late:
            assert late.directory.members == (member,)


async def test_an_update_is_seen_and_the_member_is_never_missing(discovery: Discovery, ready_url: str) -> None:
    member = worker("a", ready_url)
    async with discovery.watch("worker") as watch, discovery.membership(member) as membership:
        directory = await until_names(watch, "a")
        for status in ("loading", "failed", "ready"):
            await membership.update(replace(member, models={"digits@2": status}))
            directory = await asyncio.wait_for(watch.changed(directory.index), 5)
            assert [dict(m.models) for m in directory] == [{"digits@2": status}]


async def test_a_member_leaves_at_once(discovery: Discovery, ready_url: str) -> None:
    async with discovery.watch("worker") as watch:
        async with discovery.membership(worker("a", ready_url)), discovery.membership(worker("b", ready_url)):
            await until_names(watch, "a", "b")
            async with discovery.membership(worker("c", ready_url)):
                await until_names(watch, "a", "b", "c")
            await until_names(watch, "a", "b", within=1.0)
        await until_names(watch, within=1.0)


async def test_roles_do_not_mix(discovery: Discovery, ready_url: str) -> None:
    gateway = Member("gateway", "same", "same-1", ready_url)
    async with (
        discovery.watch("worker") as workers,
        discovery.watch("gateway") as gateways,
        discovery.membership(gateway),
        discovery.membership(worker("same", ready_url)),
    ):
        assert [m.role for m in await until_names(workers, "same")] == ["worker"]
        assert [m.role for m in await until_names(gateways, "same")] == ["gateway"]


async def test_a_killed_member_leaves_in_time(place: Place, discovery: Discovery) -> None:
    async with discovery.watch("worker") as watch, member_process(place.url, "doomed") as process:
        await until_names(watch, "doomed")
        process.kill()
        killed = time.monotonic()
        await until_names(watch, within=place.killed_within)
        print(f"left {time.monotonic() - killed:.2f} s after SIGKILL: {place.url.partition(':')[0]}")


async def test_a_killed_member_comes_back_as_another_incarnation(
    place: Place, discovery: Discovery, ready_url: str
) -> None:
    async with discovery.watch("worker") as watch:
        async with member_process(place.url, "a") as process:
            await until_names(watch, "a")
            process.kill()
        async with discovery.membership(worker("a", ready_url, start=2)):
            await until(watch, lambda directory: [m.incarnation for m in directory] == ["a-2"])


async def test_a_successor_survives_the_leaving_of_its_predecessor(discovery: Discovery, ready_url: str) -> None:
    async with discovery.watch("worker") as watch, AsyncExitStack() as successor:
        async with discovery.membership(worker("a", ready_url)):
            await until_names(watch, "a")
            await successor.enter_async_context(discovery.membership(worker("a", ready_url, start=2)))
            await until(watch, lambda directory: [m.incarnation for m in directory] == ["a-2"])
        with pytest.raises(TimeoutError):  # nothing changes any more
            await asyncio.wait_for(until(watch, lambda d: [m.incarnation for m in d] != ["a-2"]), 1.0)


async def test_odd_names(discovery: Discovery, ready_url: str) -> None:
    names = ["a/b", "..", ".", "a.b.json", "~7E", "%7E", "~", 'quo"te\\', "ü ñ 🐟", "two\nlines", "x" * 300, "x" * 301]
    async with discovery.watch("worker") as watch:
        async with AsyncExitStack() as members:
            for name in names:
                await members.enter_async_context(discovery.membership(worker(name, ready_url)))
            await until_names(watch, *names)
        await until_names(watch, within=2.0)


async def test_many_models_on_one_member(discovery: Discovery, ready_url: str) -> None:
    member = worker("a", ready_url, models={f"model-with-a-long-name-{n}@{n}": "ready" for n in range(200)})
    async with discovery.watch("worker") as watch, discovery.membership(member):
        assert (await until_names(watch, "a")).members == (member,)


async def test_a_hundred_members(discovery: Discovery, ready_url: str) -> None:
    names = [f"w{number:03}" for number in range(100)]
    async with discovery.watch("worker") as watch:
        async with AsyncExitStack() as members:
            for name in names:
                await members.enter_async_context(discovery.membership(worker(name, ready_url)))
            directory = await until_names(watch, *names, within=30)
            assert [m.name for m in directory] == names
        await until_names(watch, within=10)


async def test_errors_of_the_body_come_out_as_they_are(discovery: Discovery, ready_url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with discovery.watch("worker"), discovery.membership(worker("a", ready_url)):
            _ = 1 / 0


async def test_static_workers_are_there_for_ever() -> None:
    url = "static://10.0.0.1:8600,[::1]:8600,host:80"
    async with (
        connect(url) as discovery,
        discovery.watch("worker") as watch,
        discovery.watch("gateway") as gateways,
        discovery.membership(worker("a", "http://10.0.0.9:8600")) as membership,
    ):
        await membership.update(worker("b", "http://10.0.0.9:8600"))
        assert len(gateways.directory) == 0
        assert [(m.incarnation, m.internal_url) for m in watch.directory] == [
            ("static-10.0.0.1:8600", "http://10.0.0.1:8600"),
            ("static-[::1]:8600", "http://[::1]:8600"),
            ("static-host:80", "http://host:80"),
        ]
    async with connect("static+https://host:443") as discovery, discovery.watch("worker") as watch:
        assert [member.internal_url for member in watch.directory] == ["https://host:443"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "starts with one of file://, static://, static\\+https://, consul://, consul\\+https://"),
        ("zookeeper://h:1", "starts with one of"),
        ("consul:h", "starts with one of"),
        ("file://", "needs a directory"),
        ("file:///tmp?mode=1", "unknown options of file://: mode; there are none"),
        ("static://", "host:port"),
        ("static://a:1,b", "'b' is none"),
        ("static://a:1/x", "'a:1/x' is none"),
        ("consul://h:1?tokn=s3cret", "unknown options of consul://: tokn; there are ca, cert"),
        ("consul://s3cret@h:1", "a host and a port"),
        ("consul://h:1?scheme=ftp", "http or https"),
        ("consul://h:1?check_interval=0&token=s3cret", "check_interval"),
        ("consul://h:1?service_prefix=A_b", "service_prefix"),
    ],
)
def test_a_wrong_url_says_what_there_is(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        connect(url)
    assert "s3cret" not in str(caught.value)


def test_a_directory_is_one_line() -> None:
    member = worker("a", "http://h:1")
    assert repr(Directory("worker", (member,), 41)) == "<Directory worker: 1 ready, index 41>"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("consul://h", ("shoal-gateway", "service.consul")),
        ("consul+https://h:1?service_prefix=b&dc=west_1", ("b-gateway", "service.west_1.consul")),
    ],
)
def test_the_name_in_consuls_dns(url: str, name: tuple[str, str]) -> None:
    assert srv_name(url, "gateway") == name


@pytest.mark.parametrize("option", ["service_prefix=A", "dc=a.b", "dc=;"])
def test_what_cannot_be_part_of_that_name(option: str) -> None:
    for understand in (connect, partial(srv_name, role="gateway")):
        with pytest.raises(ValueError, match=option.partition("=")[0]):
            understand(f"consul://h?{option}")
