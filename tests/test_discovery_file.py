"""Discovery by locked files in a directory that others write into, remove, and replace."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from discovery import DiscoveryUnavailable, connect
from discovery.file import FileMembership, _Scan
from tests.discovery_tools import readiness, until, until_names, worker


@pytest.fixture
async def ready_url() -> AsyncIterator[str]:
    async with readiness() as url:
        yield url


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_garbage_in_the_directory(tmp_path: Path, ready_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(f"file://{tmp_path}") as discovery, discovery.watch("worker") as watch:
        junk = {
            "worker.empty.json": b"",
            "worker.half.json": b'{"role":"worker","na',
            "worker.binary.json": os.urandom(100),
            "worker.list.json": b"[]",
            "worker.deep.json": b"[" * 100_000,
            "worker.other.json": worker("another", ready_url).to_json().encode(),
            "worker.wrong.json": json.dumps({"role": "worker", "name": 3}).encode(),
            "notes.txt": b"mine",
        }
        for name, content in junk.items():
            (tmp_path / name).write_bytes(content)
        os.mkfifo(tmp_path / "worker.fifo.json")
        (tmp_path / "worker.folder.json").mkdir()
        (tmp_path / "worker.link.json").symlink_to("/dev/zero")
        (tmp_path / os.fsdecode(b"worker.\xff\xfe.json")).write_bytes(b"x")
        async with discovery.membership(worker("a", ready_url)):
            await until_names(watch, "a")
        await until_names(watch)
        complaints = [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()]
    assert len(complaints) == len(set(complaints)) == 11
    assert len(names_in(tmp_path)) == 12  # what is not ours is not touched


async def test_a_dead_owners_file_is_removed(tmp_path: Path, ready_url: str) -> None:
    async with connect(f"file://{tmp_path}") as discovery, discovery.watch("worker") as watch:
        (tmp_path / "worker.dead.json").write_text(worker("dead", ready_url).to_json())
        async with discovery.membership(worker("a", ready_url)):
            directory = await until_names(watch, "a")
        assert directory.index == 2, "the dead one was never in it"
        assert names_in(tmp_path) == []


async def test_the_directory_may_vanish_and_come_back(tmp_path: Path, ready_url: str) -> None:
    home, moved = tmp_path / "members", tmp_path / "moved"
    async with connect(f"file://{home}") as discovery, discovery.watch("worker") as watch:
        async with discovery.membership(worker("a", ready_url)), discovery.membership(worker("b", ready_url)):
            before = await until_names(watch, "a", "b")
            home.rename(moved)
            async with discovery.watch("worker") as other:
                await until_names(other, "a", "b")
            await until_names(watch, "a", "b", within=2)
            assert (home / "worker.a.json").exists()
            (home / "worker.a.json").unlink()
            await until(watch, lambda directory: directory.index > before.index)
            await until_names(watch, "a", "b", within=2)
        await until_names(watch, within=1)


async def test_the_snapshot_is_kept_while_the_directory_cannot_be_read(
    tmp_path: Path, ready_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    home, aside = tmp_path / "members", tmp_path / "aside"
    async with (
        connect(f"file://{home}", snapshot_timeout=0.3) as discovery,
        discovery.watch("worker") as watch,
        discovery.membership(worker("a", ready_url)) as membership,
    ):
        before = await until_names(watch, "a")
        home.rename(aside)
        home.write_text("a file where the directory was")
        with pytest.raises(DiscoveryUnavailable, match=r"no snapshot of the workers within 0\.3 s: .*directory"):
            async with discovery.watch("worker"):
                pass
        assert watch.directory is before
        home.unlink()
        aside.rename(home)
        await membership.update(worker("a", ready_url, models={"digits@2": "ready"}))
        await until(watch, lambda directory: directory.index > before.index)
    watching = [(r.levelname, "back" in r.getMessage()) for r in caplog.records if "watching" in r.getMessage()]
    assert watching == [("WARNING", False), ("WARNING", False), ("INFO", True)], "two watches went, one came back"


async def test_an_owner_is_never_missing_while_it_updates_and_others_restart(tmp_path: Path) -> None:
    """Readers race with owners that replace, drop and renew their files; dead ones are removed meanwhile."""
    steady = FileMembership(tmp_path, worker("steady", "http://h:1"))
    await steady.reconcile()
    done, missing, lost = threading.Event(), [], []

    def read() -> None:
        scan = _Scan(tmp_path, "worker")
        while not done.is_set():
            if "steady" not in {member.name for member in scan.read()}:
                missing.append(names_in(tmp_path))

    async def restart(start: int) -> None:
        dead = tmp_path / "worker.restarting.json"
        dead.write_text(worker("restarting", "http://h:1", start=start).to_json())
        fresh = FileMembership(tmp_path, worker("restarting", "http://h:1", start=start + 1))
        await fresh.reconcile()
        if "restarting" not in {member.name for member in _Scan(tmp_path, "worker").read()}:
            lost.append(start)
        fresh.leave()

    readers = [asyncio.create_task(asyncio.to_thread(read)) for _ in range(3)]
    try:
        async with asyncio.timeout(30):
            for start in range(200):
                await steady.update(worker("steady", "http://h:1", models={"digits@1": str(start)}))
                await restart(start)
    finally:
        done.set()
        await asyncio.gather(*readers)
        steady.leave()
    assert (missing, lost, names_in(tmp_path)) == ([], [], [])
