"""Values in discovery: the same promises on every backend, and what happens when the store is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import Discovery, DiscoveryRefused, DiscoveryUnavailable, ValuesWatch, connect
from discovery.values import LARGEST_TEXT, LatestValues, check_key, check_prefix
from tests.consul_server import ConsulServer
from tests.discovery_tools import consul_binary

ODD_TEXTS = ["", "{}", "ü 🐟 \x00 \r\n", '{"a": [1]}\n', "x" * LARGEST_TEXT]


@pytest.fixture(scope="module")
def consul_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with ConsulServer(consul_binary(), tmp_path_factory.mktemp("consul")) as server:
        yield server


@dataclass
class Place:
    url: str
    empty: Callable[[], object]  # takes everything away, from outside


@pytest.fixture(params=["file", "consul"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Place(f"file://{tmp_path}/shared", lambda: shutil.rmtree(tmp_path / "shared" / "values"))
    server: ConsulServer = request.getfixturevalue("consul_server")
    prefix = f"shoal-{abs(hash(request.node.nodeid)) % 10**8}"  # every test has values of its own
    return Place(
        f"{server.url}?service_prefix={prefix}", lambda: server.call("DELETE", f"/v1/kv/{prefix}/?recurse=true")
    )


@pytest.fixture
async def discovery(place: Place) -> AsyncIterator[Discovery]:
    async with connect(place.url) as connected:
        yield connected


async def until(watch: ValuesWatch, wanted: Mapping[str, str], within: float = 10.0) -> float:
    """Wait for the snapshot ``wanted``; returns the seconds that it took."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(within):
            while watch.values != wanted:
                await watch.changed(watch.index)
    except TimeoutError:
        pytest.fail(f"not within {within} s: {watch!r} {watch.values}")
    return time.monotonic() - started


async def hear(caplog: pytest.LogCaptureFixture, words: str, times: int = 1) -> None:
    for _ in range(200):
        if caplog.text.count(words) >= times:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not heard: {words}")


async def text_of(discovery: Discovery, key: str) -> str | None:
    known = await discovery.value(key)
    return known.text if known else None


async def removed(discovery: Discovery, key: str) -> bool:
    known = await discovery.value(key)
    assert known is not None
    return await discovery.delete(key, index=known.index)


async def set_to(discovery: Discovery, key: str, text: str) -> None:
    known = await discovery.value(key)
    assert await discovery.put(key, text, index=known.index if known else 0)


async def test_a_value_is_put_replaced_and_removed(discovery: Discovery) -> None:
    assert await discovery.value("models/digits") is None
    assert await discovery.put("models/digits", "one", index=0)
    first = await discovery.value("models/digits")
    assert first is not None
    assert (first.text, first.index != 0) == ("one", True)
    assert not await discovery.put("models/digits", "two", index=0), "there is one already"
    assert not await discovery.put("models/digits", "two", index=first.index + 1)
    assert await discovery.put("models/digits", "two", index=first.index)
    second = await discovery.value("models/digits")
    assert second is not None
    assert (second.text, second.index != first.index) == ("two", True)
    assert not await discovery.delete("models/digits", index=first.index)
    assert await discovery.delete("models/digits", index=second.index)
    assert await discovery.value("models/digits") is None
    assert await discovery.delete("models/digits", index=second.index), "it is gone, as was wanted"
    assert not await discovery.put("models/digits", "three", index=second.index), "that one is gone"


@pytest.mark.parametrize("text", ODD_TEXTS, ids=["empty", "json", "odd", "lines", "largest"])
async def test_texts_come_back_as_they_were(discovery: Discovery, text: str) -> None:
    async with discovery.watch_values("") as watch:
        assert await discovery.put("a/b.c_d-e", text, index=0)
        assert await text_of(discovery, "a/b.c_d-e") == text
        await until(watch, {"a/b.c_d-e": text})


async def test_the_index_changes_when_a_text_comes_back(discovery: Discovery) -> None:
    indices = []
    for text in ("a", "b", "a"):
        await set_to(discovery, "key", text)
        value = await discovery.value("key")
        assert value is not None
        indices.append(value.index)
    assert len(set(indices)) == 3


async def test_of_many_at_once_one_succeeds(discovery: Discovery) -> None:
    """Counting by compare-and-set: no step is lost."""

    async def count() -> None:
        while True:
            known = await discovery.value("count")
            number = int(known.text) if known else 0
            if await discovery.put("count", str(number + 1), index=known.index if known else 0):
                return

    await asyncio.gather(*(count() for _ in range(10)))
    assert await text_of(discovery, "count") == "10"


async def test_a_watch_follows_its_prefix_only(discovery: Discovery) -> None:
    async with discovery.watch_values("models/") as models, discovery.watch_values("models/d") as some:
        await until(models, {})
        assert models.index == 1
        for key in ("models/digits", "models/cats", "other/digits", "models.x"):
            assert await discovery.put(key, key, index=0)
        await until(models, {"models/cats": "models/cats", "models/digits": "models/digits"})
        await until(some, {"models/digits": "models/digits"})
        await set_to(discovery, "models/digits", "new")
        await until(some, {"models/digits": "new"})
        value = await discovery.value("models/digits")
        assert value is not None
        await discovery.delete("models/digits", index=value.index)
        await until(some, {})
        await until(models, {"models/cats": "models/cats"})


async def test_the_last_value_may_go(discovery: Discovery) -> None:
    await set_to(discovery, "models/digits", "1")
    async with discovery.watch_values("models/") as watch:
        await until(watch, {"models/digits": "1"})
        assert await removed(discovery, "models/digits")
        await until(watch, {})


async def test_everyone_sees_a_change_within_two_seconds(place: Place) -> None:
    """As five gateways do, each with a connection of its own."""

    async def follow(ready: asyncio.Barrier, wanted: list[str]) -> list[float]:
        seconds = []
        async with connect(place.url) as discovery, discovery.watch_values("models/") as watch:
            await watch.changed(0)
            await ready.wait()
            for text in wanted:
                seconds.append(await until(watch, {"models/digits": text}, within=5))
                await ready.wait()
        return seconds

    texts = [f"split {n}" for n in range(5)]
    ready = asyncio.Barrier(6)
    async with asyncio.TaskGroup() as group, connect(place.url) as discovery:
        followers = [group.create_task(follow(ready, texts)) for _ in range(5)]
        await ready.wait()
        for text in texts:
            await set_to(discovery, "models/digits", text)
            await ready.wait()
    slowest = max(max(follower.result()) for follower in followers)
    print(f"{place.url.partition(':')[0]}: the slowest saw it after {slowest:.3f} s")
    assert slowest < 2.0


async def test_an_emptied_store_takes_nothing_away(
    place: Place, discovery: Discovery, caplog: pytest.LogCaptureFixture
) -> None:
    async with discovery.watch_values("models/") as watch:
        for name in ("a", "b", "c"):
            await set_to(discovery, f"models/{name}", "1")
        await until(watch, {"models/a": "1", "models/b": "1", "models/c": "1"})
        before = watch.index
        await asyncio.to_thread(place.empty)
        await hear(caplog, "kept the last 3 values")
        assert (watch.index, len(watch.values or {})) == (before, 3)
        await set_to(discovery, "models/b", "2")
        await until(watch, {"models/a": "1", "models/b": "2", "models/c": "1"})
        assert await removed(discovery, "models/b")
        await until(watch, {"models/a": "1", "models/c": "1"})
        async with discovery.watch_values("models/") as fresh:
            await until(fresh, {})


async def test_a_consul_that_comes_back_empty_empties_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ConsulServer(consul_binary(), tmp_path / "consul") as server:
        async with connect(server.url) as discovery, discovery.watch_values("models/") as watch:
            for round_ in range(20):
                await set_to(discovery, "models/digits", str(round_))
            await set_to(discovery, "models/cats", "1")
            held = {"models/digits": "19", "models/cats": "1"}
            await until(watch, held)
            before = watch.index
            await asyncio.to_thread(server.kill)
            with pytest.raises(DiscoveryUnavailable, match="Consul at http://"):
                await discovery.value("models/digits")
            await asyncio.to_thread(server.start)  # a development server keeps nothing
            assert await discovery.value("models/digits") is None
            await hear(caplog, "kept the last 2 values")
            assert (watch.values, watch.index) == (held, before)
            await set_to(discovery, "models/digits", "20")
            await until(watch, held | {"models/digits": "20"})


async def test_a_consul_that_comes_back_intact_is_followed_again(tmp_path: Path) -> None:
    with ConsulServer(consul_binary(), tmp_path / "consul", persistent=True) as server:
        async with connect(server.url) as discovery, discovery.watch_values("models/") as watch:
            await set_to(discovery, "models/digits", "1")
            await until(watch, {"models/digits": "1"})
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            assert await removed(discovery, "models/digits")
            await until(watch, {})


async def test_entering_a_watch_waits_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for url in (f"file://{tmp_path}/file", "consul://127.0.0.1:1"):
        async with asyncio.timeout(2), connect(url) as discovery, discovery.watch_values("models/") as watch:
            assert (watch.values, watch.index) == (None, 0)
            for doing in (discovery.put("k", "t", index=0), discovery.delete("k", index=1), discovery.value("k")):
                with pytest.raises(DiscoveryUnavailable):
                    await doing


async def test_foreign_files_among_the_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = tmp_path / "values"
    values.mkdir()
    (values / "models~binary.value").write_bytes(b"\xff\xfe")
    (values / "models~huge.value").write_bytes(b"x" * (LARGEST_TEXT + 1))
    (values / "models~folder.value").mkdir()
    (values / "models~link.value").symlink_to("/dev/zero")
    os.mkfifo(values / "models~fifo.value")
    for name in ("models~digits.value.bak", "..value", "models~~x.value", "notes.txt"):
        (values / name).write_text("mine")
    async with connect(f"file://{tmp_path}") as discovery, discovery.watch_values("models/") as watch:
        await set_to(discovery, "models/digits", "1")
        await until(watch, {"models/digits": "1"})
        for name in ("binary", "huge", "link", "fifo"):
            assert await discovery.value(f"models/{name}") is None
            await set_to(discovery, f"models/{name}", name)
        with pytest.raises(DiscoveryUnavailable, match="directory"):
            await discovery.put("models/folder", "1", index=0)
        await until(watch, {f"models/{n}": n for n in ("binary", "huge", "link", "fifo")} | {"models/digits": "1"})
    complaints = [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()]
    assert len(complaints) == len(set(complaints)) == 5


async def test_foreign_keys_among_the_values(consul_server: ConsulServer, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(consul_server.call, "PUT", "/v1/kv/shoal-odd/models/", "a folder")
    await asyncio.to_thread(consul_server.call, "PUT", "/v1/kv/shoal-odd/models/with%20space", "x")
    async with (
        connect(f"{consul_server.url}?service_prefix=shoal-odd") as discovery,
        discovery.watch_values("models/") as watch,
    ):
        await set_to(discovery, "models/digits", "1")
        await until(watch, {"models/digits": "1"})
    ignored = sorted(r.getMessage().partition(" in Consul")[0] for r in caplog.records if "ignored" in r.getMessage())
    assert ignored == ["ignored 'models/'", "ignored 'models/with space'"]


async def test_a_value_in_consul_that_is_no_text_is_replaced(consul_server: ConsulServer) -> None:
    async with connect(f"{consul_server.url}?service_prefix=shoal-garbled") as discovery:
        await asyncio.to_thread(consul_server.call, "PUT", "/v1/kv/shoal-garbled/models/digits", b"\xff\xfe")
        assert await discovery.value("models/digits") is None
        await set_to(discovery, "models/digits", "1")
        assert await text_of(discovery, "models/digits") == "1"
        assert not await discovery.put("models/digits", "2", index=0)


async def test_static_discovery_keeps_no_values() -> None:
    async with connect("static://h:1") as discovery, discovery.watch_values("models/") as watch:
        assert (watch.values, watch.index) == ({}, 1)
        assert await discovery.value("models/digits") is None
        for doing in (discovery.put("k", "t", index=0), discovery.delete("k", index=1)):
            with pytest.raises(DiscoveryUnavailable, match="static:// keeps no values"):
                await doing


BAD_KEYS = ["", "/", "/a", "a/", "a//b", "..", "a/../b", "a..b", ".", "a/./b", "a b", "ü", "a\n", "~store", "x" * 201]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_bad_keys(discovery: Discovery, key: str) -> None:
    for doing in (discovery.value(key), discovery.put(key, "t", index=0), discovery.delete(key, index=1)):
        with pytest.raises(ValueError, match="a key is up to 200"):
            await doing


@pytest.mark.parametrize("text", ["x" * (LARGEST_TEXT + 1), "ü" * (LARGEST_TEXT // 2 + 1), "\ud800"])
async def test_bad_texts(discovery: Discovery, text: str) -> None:
    with pytest.raises(ValueError, match=r"at most 524288 bytes|surrogates"):
        await discovery.put("key", text, index=0)


@given(st.text("az09.-_/~", max_size=30))
def test_a_prefix_is_the_start_of_a_key(text: str) -> None:
    try:
        key = check_key(text)
    except ValueError:
        return
    for end in range(len(key)):
        if not key[:end].endswith("."):
            assert check_prefix(key[:end]) == key[:end]


async def test_those_who_wait_see_the_next_snapshot() -> None:
    latest = LatestValues("models/")
    waiting = asyncio.create_task(latest.changed(1))
    latest.settle("s", {"models/a": "1"})
    latest.settle("s", {"models/a": "1"})
    assert latest.index == 1
    latest.settle("s", {"models/a": "2"})
    assert await waiting == {"models/a": "2"}
    assert repr(latest) == "<LatestValues models/: 1, index 2>"


def test_a_store_that_is_restored_is_right_again() -> None:
    latest = LatestValues("")
    latest.settle("s", {"a": "1", "b": "1"})
    latest.settle("", {})
    latest.settle("s", {"a": "0"})
    assert latest.values == {"a": "0"}


def test_a_first_store_without_an_id() -> None:
    latest = LatestValues("")
    latest.settle("", {"a": "1", "b": "1"})
    latest.settle("", {"a": "1"})
    assert latest.values == {"a": "1"}
    latest.settle("", {})
    assert latest.values == {"a": "1"}, "nobody can say whether that was meant"


MANAGEMENT = "11111111-2222-3333-4444-555555555555"


async def test_who_may_not_read_does_not_see_an_empty_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ConsulServer(consul_binary(), tmp_path / "consul", management=MANAGEMENT) as server:
        reader = server.token('key_prefix "shoal/" { policy = "read" }')
        stranger = server.token('service_prefix "shoal-" { policy = "write" }')
        async with (
            connect(server.url, token=MANAGEMENT) as publisher,
            connect(server.url, token=reader) as reading,
            connect(server.url, token=stranger) as strange,
            reading.watch_values("models/") as watch,
            strange.watch_values("models/") as blind,
        ):
            await set_to(publisher, "models/digits", "1")
            await until(watch, {"models/digits": "1"})
            with pytest.raises(DiscoveryRefused):
                await reading.put("models/digits", "2", index=0)
            await hear(caplog, "check the token and its policies")
            assert blind.values is None
            # And who may not read any more keeps what it knew
            policies = await asyncio.to_thread(server.call, "GET", "/v1/acl/policies")
            for policy in policies:
                if "tests-" in policy["Name"]:
                    await asyncio.to_thread(server.call, "DELETE", f"/v1/acl/policy/{policy['ID']}")
            await set_to(publisher, "models/digits", "2")
            await hear(caplog, "check the token and its policies", times=2)
            assert watch.values in ({"models/digits": "1"}, {"models/digits": "2"})
