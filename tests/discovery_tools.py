"""What the tests of discovery share: members to register, their readiness, and waiting for a snapshot."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from discovery import Directory, Member, Watch
from tests.consul_server import find_consul
from tests.needs import need

ROOT = Path(__file__).parent.parent


def consul_binary() -> str:
    binary = find_consul()
    need(binary, "no Consul: set CONSUL_BIN, or run tests/tools/consul.sh")
    return str(binary)


@asynccontextmanager
async def readiness(host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A server whose /readyz says yes, for any number of members; gives its URL."""

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        port = runner.addresses[0][1]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def worker(name: str, url: str, start: int = 1, models: Mapping[str, str] | None = None) -> Member:
    """The incarnation of the ``start``-th start of a worker."""
    return Member("worker", name, f"{name[:20]}-{start}", url, models=models or {"digits@1": "ready"})


async def until(watch: Watch, condition: Callable[[Directory], bool], within: float = 15.0) -> Directory:
    """The first snapshot that meets ``condition``."""
    directory = watch.directory
    try:
        async with asyncio.timeout(within):
            while not condition(directory):
                directory = await watch.changed(directory.index)
    except TimeoutError:
        pytest.fail(f"not within {within} s: {watch.directory!r} {watch.directory.members}")
    return directory


async def until_names(watch: Watch, *names: str, within: float = 15.0) -> Directory:
    return await until(watch, lambda directory: sorted(m.name for m in directory) == sorted(names), within)


@asynccontextmanager
async def member_process(url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is the worker ``name`` until it is killed or this context ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.member_process", url, name),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
