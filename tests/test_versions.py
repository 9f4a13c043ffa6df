"""Which version a gateway sends a request to: by number, label, split, or the highest of each worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from discovery import Discovery, connect
from discovery.publications import Publications
from discovery.values import LatestValues
from gateway.fleet import Wish
from gateway.versions import pick
from shoal.errors import NoWorker, UnknownLabel, UnknownModel
from shoal.publication import PREFIX, Publication, Published, encode
from tests.clusters import eventually_async, up
from tests.consul_server import ConsulServer
from tests.discovery_tools import consul_binary
from tests.test_fleet import Node, Scene, load, scene

PROMISED = 2.0  # seconds until every gateway has seen a change


def digits(
    *versions: str, labels: Mapping[str, str] | None = None, traffic: Mapping[str, float] | None = None
) -> Publication:
    published = {version: Published("/models", "0" * 64) for version in versions}
    return Publication("digits", published, dict(labels or {}), dict(traffic or {}))


def known(*publications: Publication) -> Publications:
    publications_ = Publications()
    publications_.settle({f"{PREFIX}{p.model}": encode(p) for p in publications})
    return publications_


Offers = Mapping[str, Collection[str]]

PICKS: dict[str, tuple[Offers, str | None, Publication | None, dict[str, str]]] = {
    "nothing is there": ({"a": []}, None, None, {}),
    "the highest that each worker has": ({"a": ["1", "2"], "b": ["1"]}, None, None, {"a": "2", "b": "1"}),
    "the one that is asked for": ({"a": ["1", "2"], "b": ["2"]}, "1", None, {"a": "1"}),
    "one that is not published, asked for": ({"a": ["1", "2"]}, "1", digits("2"), {"a": "1"}),
    "one that nobody has": ({"a": ["1"]}, "2", digits("1", "2"), {}),
    "published ones first": ({"a": ["1", "2", "3"], "b": ["1", "2"]}, None, digits("1", "2"), {"a": "2", "b": "2"}),
    "the old one where the published one does not load": (
        {"a": ["2"], "b": ["1"]},
        None,
        digits("2"),
        {"a": "2", "b": "1"},
    ),
    "a label alone is no split": ({"a": ["1", "2"]}, None, digits("1", "2", labels={"x": "1"}), {"a": "2"}),
    "the split": ({"a": ["1", "2"], "b": ["2"]}, None, digits("1", "2", traffic={"1": 1}), {"a": "1"}),
    "the split among what is ready": (
        {"a": ["1"], "b": ["1", "3"]},
        None,
        digits("1", "2", "3", traffic={"2": 1000, "1": 1}),
        {"a": "1", "b": "1"},
    ),
    "of a split nothing is ready": ({"a": ["1"]}, None, digits("1", "2", traffic={"2": 1}), {}),
    "a version beside the split, asked for": ({"a": ["1", "2"]}, "1", digits("1", "2", traffic={"2": 1}), {"a": "1"}),
}


@pytest.mark.parametrize("case", PICKS)
def test_which_version_each_worker_serves(case: str) -> None:
    offers, version, published, picked = PICKS[case]
    assert pick(offers, version=version, published=published, key="k") == picked


def test_a_malformed_publication_is_said_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    publications = known(digits("1"), Publication("cats", {"1": Published("", "")}))
    good = encode(Publication("cats", {"2": Published("", "")}))
    for text in ("{", "{", '{"model":"cats"}', "[]"):
        publications.settle({f"{PREFIX}digits": text, f"{PREFIX}cats": good, f"{PREFIX}new": "{"})
        assert publications.of("digits") == digits("1")
        assert publications.of("new") is None
        cats = publications.of("cats")
        assert cats is not None
        assert set(cats.versions) == {"2"}
    complaints = [r.__dict__["model"] for r in caplog.records if "malformed" in r.getMessage()]
    assert Counter(complaints) == {"digits": 3, "new": 1}
    publications.settle({f"{PREFIX}digits": encode(digits("3"))})
    assert publications.of("digits") == digits("3")
    assert (publications.of("cats"), publications.was_published("cats")) == (None, True)


async def test_a_label_names_a_version() -> None:
    nodes = [Node("a", {"digits@1": load(), "digits@2": load()}), Node("b", {"digits@1": load(5)})]
    publications = known(digits("1", "2", labels={"stable": "1", "canary": "2", "next": "2"}))
    async with scene(*nodes, interval=30, publications=publications) as s:
        assert s.fleet.choose(Wish("digits", label="stable")).key == "digits@1"
        assert s.fleet.choose(Wish("digits", label="canary")).key == "digits@2"
        with pytest.raises(UnknownLabel, match="'digits' has no label 'gold'; it has canary, next, stable"):
            s.fleet.choose(Wish("digits", label="gold"))
        with pytest.raises(UnknownLabel):
            s.fleet.choose(Wish("digits", label="1"))
        with pytest.raises(UnknownModel, match="There is no model 'cats'"):
            s.fleet.choose(Wish("cats", label="stable"))


async def test_a_label_of_a_model_that_is_not_published() -> None:
    async with scene(Node("a", {"digits@1": load()}), interval=30) as s:
        with pytest.raises(UnknownLabel, match="it has none"):
            s.fleet.choose(Wish("digits", label="stable"))
    async with scene() as s:
        with pytest.raises(NoWorker):
            s.fleet.choose(Wish("digits", label="stable"))


async def test_a_split_is_sticky_and_a_version_that_is_not_ready_gets_nothing() -> None:
    nodes = [Node(name, {"digits@1": load(), "digits@2": load()}) for name in "ab"]
    async with scene(*nodes, publications=known(digits("1", "2", traffic={"1": 0.5, "2": 0.5}))) as s:

        def versions() -> dict[str, str]:
            return {f"k{n}": s.fleet.choose(Wish("digits", key=f"k{n}")).key for n in range(50)}

        assert (versions() == versions(), len(set(versions().values()))) == (True, 2)
        before = versions()
        for node in nodes:
            node.models = {"digits@1": load(), "digits@2": load(status="loading")}
            await node.polled()
        assert set(versions().values()) == {"digits@1"}
        nodes[1].models = {"digits@1": load(), "digits@2": load()}
        await nodes[1].polled()
        assert versions() == before
        assert {s.fleet.choose(Wish("digits", "2")).name for _ in range(5)} == {"b"}


async def test_while_a_version_comes_up_every_worker_has_work() -> None:
    nodes = [Node("a", {"digits@1": load(), "digits@2": load()}), Node("b", {"digits@1": load()})]
    async with scene(*nodes, interval=30, publications=known(digits("1", "2"))) as s:
        choices = {(c.name, c.key) for c in s.fleet.open_choices(Wish("digits"))}
        assert choices == {("a", "digits@2"), ("b", "digits@1")}


async def test_a_version_that_is_withdrawn_takes_only_what_asks_for_it() -> None:
    node = Node("a", {"digits@1": load(), "digits@2": load()})
    publications = known(digits("1", "2"))
    async with scene(node, publications=publications) as s:
        assert s.fleet.choose(Wish("digits")).key == "digits@2"
        publications.settle({f"{PREFIX}digits": encode(digits("1"))})
        assert s.fleet.choose(Wish("digits")).key == "digits@1"
        assert s.fleet.choose(Wish("digits", "2")).key == "digits@2"
        node.models = {"digits@1": load(), "digits@2": load(status="stopping")}
        await node.polled()
        with pytest.raises(NoWorker):
            s.fleet.choose(Wish("digits", "2"))
        node.models = {"digits@1": load()}
        await node.polled()
        with pytest.raises(UnknownModel, match="'digits@2'; there are digits@1"):
            s.fleet.choose(Wish("digits", "2"))


async def test_what_is_published_is_known_before_it_is_ready_and_unknown_when_it_is_gone() -> None:
    node = Node("a", {"cats@1": load()})
    publications = known(digits("3"))
    async with scene(node, publications=publications) as s:
        assert s.fleet.default_model() == "cats"
        for version in (None, "3"):
            with pytest.raises(NoWorker):
                s.fleet.choose(Wish("digits", version))
        with pytest.raises(UnknownModel):
            s.fleet.choose(Wish("digits", "4"))
        node.models = {"digits@3": load()}
        await node.polled()
        assert s.fleet.default_model() == "digits"
        publications.settle({})
        assert s.fleet.choose(Wish("digits", "3")).key == "digits@3"
        node.models = {}
        await node.polled()
        with pytest.raises(UnknownModel):
            s.fleet.choose(Wish("digits"))
        with pytest.raises(NoWorker):
            s.fleet.choose(Wish("cats"))  # only in the settings of a worker, which may come back


@pytest.fixture(params=["file", "consul"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}"
        return
    with ConsulServer(consul_binary(), tmp_path / "consul") as server:
        yield server.url


@asynccontextmanager
async def gateways(place: str, count: int) -> AsyncIterator[list[Scene]]:
    """Gateways, each with a connection of its own, and a fleet that has versions 1 and 2."""
    async with AsyncExitStack() as stack:
        fleets = []
        for _ in range(count):
            backend = await stack.enter_async_context(connect(place))
            values = await stack.enter_async_context(backend.watch_values(PREFIX))
            publications = await stack.enter_async_context(Publications.follow(values))
            node = Node("a", {"digits@1": load(), "digits@2": load()})
            fleets.append(await stack.enter_async_context(scene(node, publications=publications)))
        yield fleets


async def publish(discovery: Discovery, publication: Publication) -> None:
    value = await discovery.value(f"{PREFIX}digits")
    assert await discovery.put(f"{PREFIX}digits", encode(publication), index=value.index if value else 0)


async def test_a_change_of_the_split_is_seen_by_every_gateway(place: str) -> None:
    async with connect(place) as discovery, gateways(place, 3) as scenes:

        async def until_all_choose(*versions: str) -> float:
            wanted = {f"digits@{version}" for version in versions}

            async def seen() -> bool:
                return all(
                    {s.fleet.choose(Wish("digits", key=f"k{n}")).key for n in range(30)} == wanted for s in scenes
                )

            return await eventually_async(seen, within=10, what="the split at every gateway")

        slowest = 0.0
        for traffic, versions in (
            ({"1": 1.0}, ["1"]),
            ({"1": 0.5, "2": 0.5}, ["1", "2"]),
            ({"2": 1.0}, ["2"]),
            ({"1": 1.0}, ["1"]),  # back
        ):
            await publish(discovery, digits("1", "2", traffic=traffic))
            slowest = max(slowest, await until_all_choose(*versions))
        print(f"seen by all within {slowest:.3f} s: {place.partition(':')[0]}")
        assert slowest < PROMISED


async def test_a_gateway_starts_without_word_of_publications(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("discovery.publications._FIRST_SECONDS", 0.1)
    values = LatestValues(PREFIX)
    async with asyncio.timeout(5), Publications.follow(values) as publications:
        assert "nothing is known of what is published" in caplog.text
        values.settle("s", {f"{PREFIX}digits": encode(digits("1"))})

        async def heard() -> bool:
            return publications.of("digits") is not None

        await eventually_async(heard, within=5, what="the first publication")


@pytest.mark.cluster
async def test_every_gateway_of_a_cluster_shows_what_is_published(tmp_path: Path) -> None:
    place = f"file://{tmp_path}"
    ghost = Publication("ghost", {"7": Published("/nowhere", "0" * 64)}, {"stable": "7"}, placement=["nobody"])
    with up("--workers", "1", "--gateways", "2", "--model", "fake", "--discovery", place) as cluster:
        async with connect(place) as discovery, aiohttp.ClientSession(headers=cluster.headers) as session:
            assert await discovery.put(f"{PREFIX}ghost", encode(ghost), index=0)

            async def shown() -> bool:
                models = []
                for gateway in cluster.document["gateways"]:
                    async with session.get(f"{gateway}/status") as response:
                        models.append((await response.json())["models"])
                return models == [{"ghost": {"versions": ["7"], "labels": {"stable": "7"}, "traffic": {}}}] * 2

            assert await eventually_async(shown, within=10, what="the publication") < PROMISED
            for query, code in (
                ("label=stable", "no_worker"),
                ("label=gold", "unknown_label"),
                ("version=8", "unknown_model"),
            ):
                async with session.get(f"{cluster.gateway}/lookup?model=ghost&{query}") as response:
                    assert (await response.json())["error"]["code"] == code
            async with session.get(f"{cluster.gateway}/lookup") as response:
                assert (await response.json())["model"] == "fake"
