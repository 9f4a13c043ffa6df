"""nginx follows gateways and workers as they come and go, by any discovery, and nothing bad takes the good away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import discovery
from discovery import Discovery, Member
from tests.clusters import eventually_async
from tests.consul_server import ConsulServer
from tests.discovery_tools import consul_binary
from tests.nginx_server import Nginx, current_nginx, following, nginx_binary

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with ConsulServer(consul_binary(), tmp_path_factory.mktemp("consul")) as server:
        yield server


@pytest.fixture(params=["file", "consul"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/members" if request.param == "file" else str(request.getfixturevalue("consul").url)


@asynccontextmanager
async def answering(name: str) -> AsyncIterator[str]:
    """A gateway's internal listener that says who it is."""

    async def say(request: web.Request) -> web.Response:
        return web.Response(text=name)

    app = web.Application()
    app.router.add_get("/{path:.*}", say)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gateway(backend: Discovery, name: str) -> AsyncIterator[str]:
    async with answering(name) as internal, backend.membership(Member("gateway", name, f"{name}-1", internal)):
        yield internal


async def until(nginx: Nginx, wanted: set[str]) -> None:
    """Wait until requests go to these and nobody else, whoever may have been there before."""

    async def reached() -> bool:
        async with aiohttp.ClientSession() as session:
            found = set()
            for _ in range(2 * len(wanted)):
                try:
                    async with session.get(f"{nginx.url}/livez") as response:
                        found.add(await response.text())
                except aiohttp.ClientError:
                    return False
        return found == wanted

    await eventually_async(reached, within=30, what=lambda: f"{wanted}: {nginx.log()}")


@asynccontextmanager
async def started(url: str, *flags: str) -> AsyncIterator[Nginx]:
    """A follower, without blocking the gateways that live here."""
    opened = following("--discovery", url, "--pause", "0", "--processes", "1", *flags, waits=False)
    nginx = await asyncio.to_thread(opened.__enter__)
    try:
        yield nginx
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def test_the_first_gateway_is_taken_at_once(url: str) -> None:
    async with discovery.connect(url) as backend, started(url, "--pause", "3600") as nginx:
        # Given nobody, nothing is written and nginx does not run
        await eventually_async(lambda: said(nginx, "directory", 2), within=30, what="two snapshots")
        assert not (nginx.folder / "nginx.conf").exists()
        # When one comes, it does not wait for others
        async with gateway(backend, "one"):
            await until(nginx, {"one"})


async def test_gateways_come_and_go(url: str) -> None:
    async with discovery.connect(url) as backend, started(url) as nginx:
        # When one comes, and another
        async with gateway(backend, "one") as first:
            await until(nginx, {"one"})
            async with gateway(backend, "two"):
                await until(nginx, {"one", "two"})
                assert nginx.text.count("max_fails=3") == 2
            # Then it is followed, also when one leaves
            await eventually_async(lambda: served(nginx, first), within=30, what="one alone")
        # And the last one stays in the file when nobody is left
        await eventually_async(
            lambda: said(nginx, "no gateway is known any more; the last ones stay", 1), within=30, what="the warning"
        )
        assert first.removeprefix("http://") in nginx.text
        # And a new one takes its place at once
        async with gateway(backend, "three"):
            await until(nginx, {"three"})


async def test_a_worker_gets_kept_connections(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/members"
    async with discovery.connect(url) as backend, gateway(backend, "one"), started(url) as nginx:
        await until(nginx, {"one"})
        member = Member("worker", "w", "w-1", "http://127.0.0.1:8602")
        bad = Member("worker", "x", "x-1", "http://evil;} server {:1")
        async with backend.membership(member), backend.membership(bad):
            await eventually_async(lambda: said(nginx, "member left out", 1), within=30, what="the bad one seen")
            await eventually_async(lambda: holds(nginx, "upstream worker_http_127.0.0.1_8602 {"), within=30, what="it")
            assert "evil" not in nginx.text


async def test_a_worker_that_is_updated_costs_no_reload(tmp_path: Path) -> None:
    url, place = f"file://{tmp_path}/members", "upstream worker_http_127.0.0.1_8602 {"
    async with discovery.connect(url) as backend, gateway(backend, "one"), started(url) as nginx:
        await until(nginx, {"one"})
        for incarnation, directories in (("w-1", 3), ("w-2", 5)):
            async with backend.membership(Member("worker", "w", incarnation, "http://127.0.0.1:8602")):
                await eventually_async(partial(said, nginx, "directory", directories), within=30, what="it is there")
                await eventually_async(partial(holds, nginx, place), within=30, what="its place")
            await eventually_async(partial(said, nginx, "directory", directories + 1), within=30, what="it is gone")
        async with gateway(backend, "two"):
            await until(nginx, {"one", "two"})
            assert nginx.said("nginx reloaded") == 3  # the first, the worker's, and the other gateway's
            assert place in nginx.text


async def test_who_has_no_address_is_left_out_and_the_others_are_taken(tmp_path: Path) -> None:
    """nginx refuses a whole file for one name that it does not know."""
    url = f"file://{tmp_path}/members"
    async with discovery.connect(url) as backend, gateway(backend, "one"), AsyncExitStack() as stack:
        for number, host in enumerate(("nowhere.invalid", "localhost")):
            member = Member("worker", f"w{number}", f"w{number}-1", f"http://{host}:8602")
            await stack.enter_async_context(backend.membership(member))
        nobody = Member("gateway", "nobody", "nobody-1", "http://nobody.invalid:8081")
        await stack.enter_async_context(backend.membership(nobody))
        nginx = await stack.enter_async_context(started(url))
        await until(nginx, {"one"})
        assert '"http://127.0.0.1:8602" "http://worker_http_127.0.0.1_8602";' in nginx.text
        assert ".invalid" not in nginx.text
        await eventually_async(lambda: said(nginx, "no address of a name", 2), within=30, what="both left out")


async def test_what_nginx_does_not_understand_takes_nothing_away(tmp_path: Path) -> None:
    url, refuse = f"file://{tmp_path}/members", tmp_path / "refuse"
    wrapper = tmp_path / "nginx"
    refusing = f'[ "$word" = -t ] && [ -e {refuse} ] && echo broken && exit 1'
    wrapper.write_text(f'#!/bin/sh\nfor word; do {refusing}; done\nexec {nginx_binary()} "$@"\n')
    wrapper.chmod(0o755)
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(discovery.connect(url))
        nginx = await stack.enter_async_context(started(url, "--nginx", str(wrapper)))
        await stack.enter_async_context(gateway(backend, "one"))
        await until(nginx, {"one"})
        good = nginx.text
        refuse.touch()
        await stack.enter_async_context(gateway(backend, "two"))
        await eventually_async(lambda: said(nginx, "the configuration before stays", 1), within=30, what="a refusal")
        assert nginx.text == good
        assert not list(nginx.folder.glob("*.new"))
        await until(nginx, {"one"})
        refuse.unlink()
        await stack.enter_async_context(gateway(backend, "three"))
        await until(nginx, {"one", "two", "three"})


async def test_changes_that_are_not_urgent_wait_for_others(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/members"
    async with discovery.connect(url) as backend, AsyncExitStack() as stack:
        names = "one", "two", "three"
        first = await stack.enter_async_context(AsyncExitStack())
        for name in names:
            await first.enter_async_context(gateway(backend, name))
        nginx = await stack.enter_async_context(started(url, "--pause", "3600"))
        await until(nginx, set(names))
        async with gateway(backend, "four"):
            await eventually_async(lambda: said(nginx, "directory", 3), within=30, what="four seen")
        await eventually_async(lambda: said(nginx, "directory", 4), within=30, what="four gone")
        # When most of them are gone, this one does not wait, and it is the first since the start
        await stack.enter_async_context(gateway(backend, "five"))
        await first.aclose()
        await until(nginx, {"five"})
        assert nginx.said("nginx reloaded") == 2


async def test_a_reload_of_a_current_nginx_leaves_idle_connections_open(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/members"
    async with discovery.connect(url) as backend, gateway(backend, "one"), AsyncExitStack() as stack:
        nginx = await stack.enter_async_context(started(url, "--nginx", current_nginx()))
        await until(nginx, {"one"})
        reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
        stack.callback(writer.close)
        first, before = await _asked(reader, writer), nginx.children()
        os.kill(nginx.pid, signal.SIGHUP)
        await eventually_async(lambda: _has_more(nginx, before), within=30, what="new processes beside the old ones")
        await asyncio.sleep(1)
        assert await _asked(reader, writer) == first == b"HTTP/1.1 200 OK\r\n"


async def test_nginx_is_started_again_when_its_program_is_back(tmp_path: Path) -> None:
    wrapper, away = tmp_path / "nginx", tmp_path / "away"
    wrapper.write_text(f'#!/bin/sh\nexec {nginx_binary()} "$@"\n')
    wrapper.chmod(0o755)
    url = f"file://{tmp_path}/members"
    flags = ("--nginx", str(wrapper))
    async with discovery.connect(url) as backend, gateway(backend, "one"), started(url, *flags) as nginx:
        await until(nginx, {"one"})
        wrapper.rename(away)
        os.kill(nginx.pid, signal.SIGTERM)
        message = "nginx cannot be started; it is tried again"
        await eventually_async(lambda: said(nginx, message, 1), within=30, what="no program")
        away.rename(wrapper)
        await until(nginx, {"one"})


async def test_it_is_printed_and_written_once(tmp_path: Path) -> None:
    nginx_binary()
    for flag in ("--print", "--once"):
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "nginx",
                flag,
                "--gateways",
                "http://127.0.0.1:1",
                "--folder",
                str(tmp_path / "bodies"),
            ),
            *("--file", str(tmp_path / "nginx.conf"), "--pid-file", str(tmp_path / "pid")),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0
        if flag == "--print":
            text = printed.decode()
    assert (tmp_path / "nginx.conf").read_text() == text
    assert "server 127.0.0.1:1 " in text


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first line of an answer on this connection, which is read whole."""
    writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    await reader.readexactly(len("one"))
    return head.partition(b"\n")[0] + b"\n"


async def _has_more(nginx: Nginx, before: list[int]) -> bool:
    return bool(set(nginx.children()) - set(before))


async def said(nginx: Nginx, message: str, times: int) -> bool:
    return nginx.said(message) >= times


async def holds(nginx: Nginx, line: str) -> bool:
    return line in nginx.text


async def served(nginx: Nginx, url: str) -> bool:
    return nginx.text.count("max_fails=3") == 1 and url.removeprefix("http://") in nginx.text
