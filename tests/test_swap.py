"""Versions that come and go under traffic, on a whole cluster: nothing fails, and what is broken serves nobody."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from shoal import AsyncClient
from shoal.errors import ShoalError, UnknownModel
from tests.clusters import Cluster, eventually_async, is_running, up
from tests.publishing import make, publish, unpublish

pytestmark = pytest.mark.cluster

MODEL = "plain"


@pytest.fixture(scope="module")
def empty() -> Iterator[Cluster]:
    """Two workers and two gateways that serve what is published."""
    with up("--workers", "2", "--gateways", "2", "--model", "none", "--worker-setting", "grace=1") as cluster:
        yield cluster


@pytest.fixture
async def cluster(empty: Cluster) -> AsyncIterator[Cluster]:
    yield empty
    await unpublish(url(empty), MODEL)
    await eventually_async(lambda: serves(empty, {}), within=20, what="nothing is served")


def url(cluster: Cluster) -> str:
    return str(cluster.document["discovery"])


def photo(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256 % 256, 7)).save(stream, "PNG")
    return stream.getvalue()


async def loads(cluster: Cluster) -> list[dict[str, Any]]:
    async with cluster.async_client() as client:
        return [worker["models"] for worker in (await client.status())["workers"]]


async def serves(cluster: Cluster, statuses: dict[str, str]) -> bool:
    """Whether every worker has exactly these model versions, with these statuses."""
    found = [{key: load["status"] for key, load in models.items()} for models in await loads(cluster)]
    return found == [statuses, statuses]


async def becomes(cluster: Cluster, **versions: str) -> None:
    statuses = {f"{MODEL}@{version.removeprefix('v')}": status for version, status in versions.items()}
    await eventually_async(lambda: serves(cluster, statuses), within=30, what=f"{statuses}")


class Traffic:
    """Requests without a pause, by both ways."""

    def __init__(self, clients: list[AsyncClient]) -> None:
        self._clients = clients
        self.versions: Counter[str] = Counter()
        self.failures: list[ShoalError] = []

    async def flow(self, number: int) -> None:
        while True:
            try:
                answer = await self._clients[number % 2].predict(photo(number), model=MODEL)
            except ShoalError as error:
                self.failures.append(error)
            else:
                assert answer.document["outputs"]["version"]["data"] == [float(answer.version)]
                self.versions[answer.version] += 1
            number += 2
            await asyncio.sleep(0.01)

    async def seen(self) -> set[str]:
        """The versions that answer from now on, to requests that are under way and to some after them."""
        await self._answers(20)
        await self._answers(60)
        return set(self.versions)

    async def _answers(self, count: int) -> None:
        self.versions.clear()
        await eventually_async(lambda: self._has(count), within=20, what=f"{count} answers")

    async def _has(self, count: int) -> bool:
        return self.versions.total() >= count


@asynccontextmanager
async def traffic(cluster: Cluster) -> AsyncIterator[Traffic]:
    async with cluster.async_client("direct") as direct, cluster.async_client("proxy") as proxy:
        flowing = Traffic([direct, proxy])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(flowing.flow(number)) for number in range(4)]
            yield flowing
            for task in tasks:
                task.cancel()
    assert flowing.failures == []


async def test_a_new_version_takes_over_under_traffic_and_the_old_process_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    await publish(url(cluster), make(tmp_path, MODEL, "1"))
    await becomes(cluster, v1="ready")
    async with traffic(cluster) as flowing:
        assert await flowing.seen() == {"1"}
        before = await model_processes(cluster)
        await publish(url(cluster), make(tmp_path, MODEL, "2"), keep=0)
        await becomes(cluster, v2="ready")
        assert await flowing.seen() == {"2"}
    await eventually_async(lambda: has_ended(before), within=10, what="the end of the old processes")
    await eventually_async(lambda: has_models(cluster, 2), within=5, what="a process on each worker")
    assert not await model_processes(cluster) & before


async def has_ended(pids: set[int]) -> bool:
    return not any(map(is_running, pids))


async def has_models(cluster: Cluster, count: int) -> bool:
    return len(await model_processes(cluster)) == count


async def model_processes(cluster: Cluster) -> set[int]:
    connector = aiohttp.UnixConnector(str(Path(cluster.document["control"]) / "launcher.sock"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://launcher/nodes") as response:
        nodes = (await response.json())["nodes"]
    return {pid for node in nodes for pid in node["pids"].get("model", [])}


async def test_the_old_version_stays_for_a_way_back(cluster: Cluster, tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        await publish(url(cluster), make(tmp_path, MODEL, version))
        expected = {f"v{v}": "ready" for v in ("1", "2", "3") if int(version) - 1 <= int(v) <= int(version)}
        await becomes(cluster, **expected)


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        ("golden", "differ"),
        ("raises", "no weights here"),
        ("digest", "was published"),
        ("gone", "there is no"),
    ],
)
async def test_a_version_that_is_broken_takes_no_traffic(
    cluster: Cluster, tmp_path: Path, breaking: str, reason: str
) -> None:
    await publish(url(cluster), make(tmp_path, MODEL, "1"))
    await becomes(cluster, v1="ready")
    broken = make(tmp_path, MODEL, "2")
    text = (broken / "model.py").read_text()
    match breaking:
        case "golden":
            (broken / "model.py").write_text(text.replace("2, np.float32", "2.5, np.float32"))
        case "raises":
            (broken / "model.py").write_text(text.replace("pass", "raise OSError('no weights here')"))
        case "gone":
            broken = broken.parent / "9"
    async with traffic(cluster) as flowing:
        wrong = "0" * 64 if breaking in ("digest", "gone") else ""
        await publish(url(cluster), broken, digest=wrong, keep=0)
        await becomes(cluster, **{"v1": "ready", f"v{broken.name}": "failed"})
        assert await flowing.seen() == {"1"}
        for models in await loads(cluster):
            assert reason in models[f"{MODEL}@{broken.name}"]["reason"]
        await publish(url(cluster), make(tmp_path, MODEL, "10"), keep=0)
        await becomes(cluster, v10="ready")
        assert await flowing.seen() == {"10"}


async def test_a_ticket_for_a_version_that_leaves_is_honoured(cluster: Cluster, tmp_path: Path) -> None:
    await publish(url(cluster), make(tmp_path, MODEL, "1"))
    await becomes(cluster, v1="ready")
    async with aiohttp.ClientSession(headers=cluster.headers) as session:
        async with session.get(f"{cluster.gateway}/lookup?model={MODEL}") as response:
            grant = await response.json()
        await publish(url(cluster), make(tmp_path, MODEL, "2"), keep=0)
        await becomes(cluster, v1="stopping", v2="ready")
        headers = {"Authorization": f"Bearer {grant['ticket']}"}
        async with session.post(grant["url"], data=photo(1), headers=headers) as response:
            assert (response.status, (await response.json())["version"]) == (200, "1")


async def test_an_upload_that_lasts_longer_than_its_version_is_answered_by_it(cluster: Cluster, tmp_path: Path) -> None:
    await publish(url(cluster), make(tmp_path, MODEL, "1"))
    await becomes(cluster, v1="ready")
    body, is_hidden = photo(1), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:10]
        await is_hidden.wait()
        yield body[10:]

    async with aiohttp.ClientSession(headers=cluster.headers) as session:
        async with session.get(f"{cluster.gateway}/lookup?model={MODEL}") as response:
            grant = await response.json()
        headers = {"Authorization": f"Bearer {grant['ticket']}", "Content-Length": str(len(body))}
        uploading = asyncio.create_task(session.post(grant["url"], data=slowly(), headers=headers))
        await publish(url(cluster), make(tmp_path, MODEL, "2"), keep=0)
        await becomes(cluster, v2="ready")
        is_hidden.set()
        async with await uploading as response:
            assert (response.status, (await response.json())["version"]) == (200, "1")


async def test_a_model_that_is_published_no_more_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    await publish(url(cluster), make(tmp_path, "other", "1"))
    await publish(url(cluster), make(tmp_path, MODEL, "1"))
    await eventually_async(
        lambda: serves(cluster, {"other@1": "ready", f"{MODEL}@1": "ready"}), within=30, what="two models"
    )
    await unpublish(url(cluster), MODEL)
    await eventually_async(lambda: serves(cluster, {"other@1": "ready"}), within=20, what="one model is left")
    async with cluster.async_client() as client:
        with pytest.raises(UnknownModel):
            await client.predict(photo(1), model=MODEL, timeout=5)
    await unpublish(url(cluster), "other")
    await eventually_async(lambda: serves(cluster, {}), within=20, what="nothing is served")
    await eventually_async(lambda: has_models(cluster, 0), within=10, what="the end of their processes")
