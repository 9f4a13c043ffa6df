"""The life of the versions of one node, with a real queue, real fetches and real model processes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import discovery
from discovery import ValuesWatch
from shoal import publication
from shoal.keeper import Keeper
from shoal.metrics import SupervisorMetrics
from shoal.publication import Publication, Published
from shoal.service import background
from shoal.settings import WorkerSettings
from shoal.wire import Job, Tensor, unpack_reply
from tests.publishing import make, publish, unpublish
from tests.redis_servers import RedisServer
from worker.devices import CPU
from worker.models.digests import digest_of
from worker.queue import Queue
from worker.repository import publishing
from worker.repository.cache import Cache
from worker.served_model import ServedModel
from worker.served_models import ServedModels

MODEL = "plain"


@pytest.fixture
async def queue(valkey: RedisServer) -> AsyncIterator[Queue]:
    async with Queue.connect(str(valkey.socket)) as connected:
        yield connected
        await connected.forget_front("front")


class Node:
    """What a node serves, and what was said of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.url = f"file://{tmp_path / 'discovery'}"
        self.changed = asyncio.Event()
        self.awaits_more = False
        self.looks = 0
        self.models: ServedModels
        self.watch: ValuesWatch

    def of(self, version: str) -> ServedModel | None:
        return next((model for model in self.models if model.key == f"{MODEL}@{version}"), None)

    def status(self, version: str) -> str:
        model = self.of(version)
        return model.state.status if model else "gone"

    def is_asked_for(self, key: str) -> bool:
        self.looks += 1
        self.changed.set()
        return self.awaits_more

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(20):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: {self.models}") from None

    async def becomes(self, **versions: str) -> None:
        wanted = {version.removeprefix("v"): status for version, status in versions.items()}
        await self.until(lambda: {v: self.status(v) for v in wanted} == wanted, f"{versions}")


Serving = Callable[..., Any]


@pytest.fixture
def serving(tmp_path: Path, valkey: RedisServer, queue: Queue) -> Serving:
    """Serve what is published, with the settings that are given."""

    @asynccontextmanager
    async def serve(**wanted: Any) -> AsyncIterator[Node]:
        node = Node(tmp_path)
        settings = WorkerSettings(
            discovery=node.url, models=(), **{"grace": 0, "drain_timeout": 10, "load_timeout": 60} | wanted
        )
        node.models = ServedModels(
            settings,
            [CPU],
            queue,
            str(valkey.socket),
            tmp_path / "cache",
            SupervisorMetrics(CollectorRegistry()),
            changed=node.changed.set,
            keep=partial(Keeper, started=node.changed.set),
            is_asked_for=node.is_asked_for,
        )
        async with (
            discovery.connect(node.url) as backend,
            backend.watch_values(publication.PREFIX) as watch,
            background(node.models.serve(watch, "worker1")),
        ):
            node.watch = watch
            yield node

    return serve


async def test_a_version_is_served_until_another_is(serving: Serving, tmp_path: Path) -> None:
    async with serving() as node:
        await publish(node.url, make(tmp_path, MODEL, "1"))
        await node.becomes(v1="ready")
        await publish(node.url, make(tmp_path, MODEL, "2"), keep=0)
        await node.becomes(v1="gone", v2="ready")
        await unpublish(node.url, MODEL)
        await node.becomes(v2="gone")
        assert node.models.are_settled


@asynccontextmanager
async def silent_source() -> AsyncIterator[tuple[str, asyncio.Queue[str]]]:
    """A URL that never answers, and what becomes of those who ask it."""
    said: asyncio.Queue[str] = asyncio.Queue()

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        said.put_nowait("asked")
        await reader.read()
        said.put_nowait("gone")
        writer.close()

    async with await asyncio.start_server(asked, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{MODEL}.zip", said


async def test_a_fetch_ends_when_its_version_is_withdrawn_and_with_its_node(serving: Serving) -> None:
    async with silent_source() as (source, said):
        hanging = Publication(MODEL, {"1": Published(source, "0" * 64)})
        async with serving() as node, discovery.connect(node.url) as backend:
            await publishing.change(backend, MODEL, lambda before: hanging)
            assert await said.get() == "asked"
            assert not node.models.are_settled
            await unpublish(node.url, MODEL)
            assert await said.get() == "gone"
            await node.becomes(v1="gone")
            await publishing.change(backend, MODEL, lambda before: hanging)
            assert await said.get() == "asked"
        assert await said.get() == "gone"


def waits_for(gate: Path) -> str:
    """What makes a model wait in its loading until there is a file."""
    return f"[__import__('time').sleep(0.05) for _ in iter(lambda: __import__('os').path.exists({str(gate)!r}), True)]"


async def test_another_worker_with_the_same_cache_removes_nothing_that_is_served(
    serving: Serving, tmp_path: Path
) -> None:
    async with serving() as node:
        await publish(node.url, make(tmp_path, MODEL, "1"))
        await node.becomes(v1="ready")
        (folder,) = (tmp_path / "cache").iterdir()
        cache = Cache(tmp_path / "cache")
        cache.shrink(0, keep=())
        assert folder.is_dir()
        await unpublish(node.url, MODEL)
        await node.becomes(v1="gone")
        cache.shrink(0, keep=())
        assert not folder.is_dir()


async def test_a_version_that_could_not_be_fetched_is_tried_again(serving: Serving, tmp_path: Path) -> None:
    folder = make(tmp_path, MODEL, "1")
    digest = digest_of(folder)
    away = folder.rename(tmp_path / "away")
    async with serving() as node:
        await publish(node.url, folder, digest=digest)
        await node.becomes(v1="failed")
        away.rename(folder)
        await node.becomes(v1="ready")
        assert node.models.states[f"{MODEL}@1"].reason == ""


async def test_a_version_that_failed_is_tried_at_once_from_another_source(serving: Serving, tmp_path: Path) -> None:
    folder = make(tmp_path, MODEL, "1")
    wrong = make(tmp_path, "wrong", "1")
    digest = digest_of(folder)
    elsewhere = tmp_path / "elsewhere" / MODEL / "1"
    elsewhere.parent.mkdir(parents=True)
    folder.rename(elsewhere)
    wrong.rename(folder)
    async with serving() as node:
        await publish(node.url, folder, digest=digest)
        await node.becomes(v1="failed")
        await publish(node.url, elsewhere, digest=digest)
        await node.becomes(v1="ready")


async def test_a_version_that_is_withdrawn_while_it_loads_loads_no_longer(serving: Serving, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    slow = [make(tmp_path, MODEL, version, at_load=waits_for(gate)) for version in ("1", "2")]
    gate.unlink()
    async with serving() as node:
        await publish(node.url, slow[0], keep=0)
        await node.until(lambda: node.models.keepers, "a process")
        await publish(node.url, slow[1], keep=0)
        await node.becomes(v1="gone", v2="loading")


async def test_a_version_that_does_not_load_leaves_its_memory_to_another(serving: Serving, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    broken = make(tmp_path, MODEL, "1", at_load=f"open({str(gate)!r}).close()", memory_bytes=100)
    gate.unlink()
    async with serving(model_memory_bytes=150) as node:
        await publish(node.url, broken)
        await publish(node.url, make(tmp_path, MODEL, "2", memory_bytes=100))
        await node.becomes(v1="failed", v2="ready")


async def test_jobs_are_answered_though_the_process_of_a_leaving_version_dies(
    serving: Serving, queue: Queue, tmp_path: Path
) -> None:
    async with serving() as node:
        await publish(node.url, make(tmp_path, MODEL, "1"))
        await node.becomes(v1="ready")
        process = node.models.keepers[0].child
        assert process is not None
        process.signal(signal.SIGSTOP)
        await queue.submit(f"{MODEL}@1", blank("j1"), capacity=10, capacity_bytes=1 << 20)
        await unpublish(node.url, MODEL)
        await node.until(lambda: not node.models.states, "a hidden version")
        process.signal(signal.SIGKILL)
        _, replies = await queue.replies("front", b"0-0", 15.0)
        assert [unpack_reply(reply).job for reply in replies] == ["j1"]
        await node.becomes(v1="gone")


async def test_a_version_stays_while_requests_for_it_are_under_way(
    serving: Serving, queue: Queue, tmp_path: Path
) -> None:
    async with serving() as node:
        await publish(node.url, make(tmp_path, MODEL, "1"))
        await node.becomes(v1="ready")
        node.awaits_more = True
        await unpublish(node.url, MODEL)
        await node.until(lambda: node.looks > 1, "a version that could have gone by now")
        assert not node.models.states
        await queue.submit(f"{MODEL}@1", blank("j2"), capacity=10, capacity_bytes=1 << 20)
        _, replies = await queue.replies("front", b"0-0", 15.0)
        assert [unpack_reply(reply).job for reply in replies] == ["j2"]
        assert node.status("1") == "stopping"
        node.awaits_more = False
        await node.becomes(v1="gone")


async def test_a_version_that_is_published_again_while_it_leaves_comes_back(
    serving: Serving, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_leaving, may_leave, forget_model = asyncio.Event(), asyncio.Event(), queue.forget_model

    async def forget_slowly(key: str) -> None:
        is_leaving.set()
        await may_leave.wait()
        await forget_model(key)

    monkeypatch.setattr(queue, "forget_model", forget_slowly)
    async with serving() as node:
        folder = make(tmp_path, MODEL, "1")
        await publish(node.url, folder)
        await node.becomes(v1="ready")
        before = node.of("1")
        await unpublish(node.url, MODEL)
        await is_leaving.wait()
        node.changed.clear()
        await publish(node.url, folder)
        await node.changed.wait()
        assert node.of("1") is before  # whose queue is about to be deleted
        may_leave.set()
        await node.becomes(v1="ready")
        assert node.of("1") is not before


async def test_what_a_model_prints_is_not_taken_for_an_event(serving: Serving, tmp_path: Path) -> None:
    talks = """print('{"event": "ready"}'); print("half a line", end="", flush=True)"""
    async with serving() as node:
        await publish(node.url, make(tmp_path, MODEL, "1", at_load=talks))
        await node.becomes(v1="ready")


def blank(name: str) -> Job:
    return Job(
        id=name,
        inputs={"image": Tensor("uint8", (8, 8, 3), bytes(192))},
        waiters=["front"],
        submitted=time.monotonic(),
        remaining_ms=30_000,
        request_id=name,
    )
