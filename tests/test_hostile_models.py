"""Models and publications that do all they can to take their node and its gateways along, and do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import discovery
from gateway.proxy import Broken, Proxy
from shoal import service
from shoal.publication import Publication, Published, encode
from tests.clusters import Cluster, eventually_async, up
from tests.photos import photo
from tests.publishing import MANIFEST, SOURCE, make, publish

HOSTILE = {
    "prints": """print('{"event": "ready"}\\\\n{"event": "executed"}\\\\n' + 'x' * (20 << 20), flush=True)""",
    "explains": "raise ValueError('x' * (20 << 20))",
    "ends": "import os; os._exit(3)",
}


def write(repository: Path, model: str, at_load: str) -> Path:
    folder = repository / model / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(SOURCE.format(version=1, at_load=at_load))
    (folder / "model.toml").write_text(MANIFEST)
    return folder


@pytest.mark.cluster
async def test_others_are_served_on(tmp_path: Path) -> None:
    with up("--workers", "1", "--gateways", "1", "--model", "none") as cluster:
        url = str(cluster.document["discovery"])
        await publish(url, make(tmp_path, "good", "1"))
        for model, at_load in HOSTILE.items():
            await publish(url, write(tmp_path, model, at_load))
        deep = tmp_path / "deep" / "1"
        deep.mkdir(parents=True)
        (deep / "model.toml").write_text("a=" + "[" * 20_000)
        await publish(url, deep)
        async with discovery.connect(url) as backend:
            await backend.put("models/nested", '{"x":' + "[" * 100_000, index=0)
        settled = dict.fromkeys(("explains@1", "ends@1", "deep@1"), "failed")
        settled |= dict.fromkeys(("good@1", "prints@1"), "ready")
        await eventually_async(lambda: _statuses_are(cluster, settled), within=60, what="every model is settled")
        async with cluster.async_client("proxy") as client:
            answers = await asyncio.gather(*(client.predict(photo(n), model="good") for n in range(10)))
        assert all(answer.document["outputs"]["version"]["data"] == [1.0] for answer in answers)


async def _statuses_are(cluster: Cluster, wanted: dict[str, str]) -> bool:
    async with cluster.async_client() as client:
        workers: list[dict[str, Any]] = (await client.status())["workers"]
    return [{key: load["status"] for key, load in worker["models"].items()} for worker in workers] == [wanted]


async def test_an_answer_that_cannot_be_read_is_a_broken_one() -> None:
    async with _answering({"X-Long": "x" * 20_000}) as url, Proxy.open() as proxy:
        with pytest.raises(Broken):
            await proxy.send(url, b"", {}, deadline=asyncio.get_running_loop().time() + 1000)


@asynccontextmanager
async def _answering(headers: dict[str, str]) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers=headers)

    app = web.Application()
    app.router.add_post("/", answer)
    sock = service.bind("127.0.0.1", 0)
    async with service.listening(app, [sock], drain_timeout=1):
        yield service.url_of("127.0.0.1", sock)


@pytest.mark.cluster
async def test_many_versions_are_fetched_a_few_at_once(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    versions = {str(n): Published(f"{(tmp_path / 'source').as_uri()}?sig=secret", f"{n:064x}") for n in range(1, 25)}
    with up("--workers", "1", "--gateways", "1", "--model", "none") as cluster:
        (worker,) = cluster.pids("worker")
        most = 0
        async with discovery.connect(str(cluster.document["discovery"])) as backend:
            await backend.put("models/many", encode(Publication("many", versions)), index=0)
        failed = {f"many@{n}": "failed" for n in versions}
        while not await _statuses_are(cluster, failed):
            most = max(most, _fetching(worker))
        assert 0 < most <= 8
        assert cluster.log(message="model wanted")
        assert "secret" not in str(cluster.log(message="model wanted"))


def _fetching(supervisor: int) -> int:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    commands = [_command(int(pid)) for pid in children]
    return sum(b"worker.repository.fetch" in command for command in commands)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
