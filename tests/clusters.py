"""Whole clusters for tests: ``shoal up`` as a user starts it, and what a test wants to ask of one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shoal import AsyncClient, Client
from shoal.client import Mode

START_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Cluster:
    """A running ``shoal up --json``."""

    process: subprocess.Popen[bytes]
    document: dict[str, Any]
    log_file: Path

    @property
    def gateway(self) -> str:
        return str(self.document["gateway"])

    @property
    def api_key(self) -> str:
        return str(self.document["api_key"])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    def pids(self, role: str) -> list[int]:
        return [int(pid) for pid in self.document["pids"][role]]

    def all_pids(self) -> list[int]:
        return [pid for role in self.document["pids"] for pid in self.pids(role)]

    def worker(self, number: int) -> dict[str, Any]:
        worker: dict[str, Any] = self.document["workers"][number]
        return worker

    def client(self, mode: Mode = "direct", timeout: float = 30.0) -> Client:
        return Client(",".join(self.document["gateways"]), api_key=self.api_key, mode=mode, timeout=timeout)

    def async_client(self, mode: Mode = "direct", timeout: float = 30.0) -> AsyncClient:
        return AsyncClient(",".join(self.document["gateways"]), api_key=self.api_key, mode=mode, timeout=timeout)

    def log(self, **fields: object) -> list[dict[str, Any]]:
        """The log records that have all of ``fields``."""
        records = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if all(record.get(name) == value for name, value in fields.items()):
                records.append(record)
        return records

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def up(*arguments: str, environ: dict[str, str] | None = None, log_level: str = "info") -> Iterator[Cluster]:
    """Start a cluster with ``shoal up --json``, and hold it to a clean end unless the body ended it."""
    with tempfile.NamedTemporaryFile(prefix="cluster-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shoal.cli", "up", "--json", "--log-level", log_level, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(environ or {})},
        )
        try:
            cluster = Cluster(process, _first_line(process, Path(log.name)), Path(log.name))
            yield cluster
            if process.poll() is None:
                assert cluster.stop() == 0, _tail(Path(log.name))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = _read_line(process.stdout)
    assert line, f"no cluster:\n{_tail(log)}"
    document: dict[str, Any] = json.loads(line)
    return document


def _read_line(stream: IO[bytes]) -> bytes:
    return stream.readline()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-30:])


def eventually(condition: Any, *, within: float, what: str | Callable[[], str]) -> float:
    """Wait until ``condition()`` is true; returns the seconds that it took. A callable ``what`` is asked in the end."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within, f"not within {within:g} s: {what() if callable(what) else what}"
        time.sleep(0.02)
    return time.monotonic() - started


async def eventually_async(condition: Any, *, within: float, what: str | Callable[[], str]) -> float:
    """``eventually`` for a condition that is a coroutine function."""
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < within, f"not within {within:g} s: {what() if callable(what) else what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def descendants_memory(pids: Sequence[int]) -> int:
    """The memory of these processes in bytes, shared pages divided among their sharers (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
