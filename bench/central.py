"""What the central tier costs: CPU time of nginx and the gateway for images of 100 KB, by every way, in one run.

``python -m bench.central [--rounds N] [--requests N]`` prints the table of docs/benchmarks.md. The ways take turns. The
workers only swallow what they get, and they and the client are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import photos
from bench.peers import free_port
from bench.processes import NotMeasured, Tree
from shoal.launcher import Node, Plan, Running, cluster

_START_SECONDS = 60.0
_PLAIN = """
worker_processes 1; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_buffer_size 1m; client_max_body_size 20m;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream worker {{ server {worker}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ proxy_pass http://worker; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""

Way = Callable[["Connection"], Awaitable[None]]


@dataclass
class Cell:
    """One way in one round: CPU seconds per 1,000 requests, and requests a second."""

    nginx: float
    gateway: float
    rate: float


@dataclass
class Central:
    """Everything that is measured, and the processes that cost."""

    api_key: str
    image: bytes
    ports: dict[str, int]
    nginxes: dict[str, Tree]
    gateway: Sequence[int]
    cells: dict[str, list[Cell]] = field(default_factory=dict)


class Connection:
    """A client's kept connections, one to each port, that speak as little HTTP as they can."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def ask(self, port: int, request: bytes) -> bytes:
        """The body of the answer. Raises ``NotMeasured`` for one that is not 200."""
        if port not in self._open:
            self._open[port] = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = self._open[port]
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.partition(b":")[2]))
        if not head.startswith(b"HTTP/1.1 200 "):
            raise NotMeasured(f"{head!r} {body!r}")
        return body

    def close(self) -> None:
        for _, writer in self._open.values():
            writer.close()


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes and all their threads, to the nanosecond (the first number of schedstat)."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for pid in pids
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
        / 1e9
    )


def _post(key: str, image: bytes, path: str = "/predict") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: shoal\r\nAuthorization: Bearer {key}\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


def ways(central: Central) -> dict[str, tuple[Way, str]]:
    """Each way, and the nginx that it takes."""
    upload = _post(central.api_key, central.image)
    lookup = f"GET /lookup HTTP/1.1\r\nHost: shoal\r\nAuthorization: Bearer {central.api_key}\r\n\r\n".encode()

    def through(name: str) -> Way:
        async def send(connection: Connection) -> None:
            await connection.ask(central.ports[name], upload)

        return send

    async def direct(connection: Connection) -> None:
        found = json.loads(await connection.ask(central.ports["fast path"], lookup))
        port = int(found["url"].rpartition(":")[2].partition("/")[0])
        await connection.ask(port, _post(found["ticket"], central.image))

    async def only_lookup(connection: Connection) -> None:
        await connection.ask(central.ports["gateway"], lookup)

    return {
        "Python proxy behind nginx": (through("proxy"), "proxy"),
        "fast path": (through("fast path"), "fast path"),
        "fast path, no kept connections": (through("unkept"), "unkept"),
        "plain nginx to one worker": (through("plain"), "plain"),
        "lookup by nginx, upload direct": (direct, "fast path"),
        "lookup alone, at the gateway": (only_lookup, ""),
    }


async def measured(central: Central, way: Way, nginx: str, *, requests: int, callers: int) -> Cell:
    pids = _family(central.nginxes[nginx]) if nginx else []
    left = iter(range(requests))

    async def call(connection: Connection) -> None:
        for _ in left:
            await way(connection)

    connections = [Connection() for _ in range(callers)]
    try:
        await asyncio.gather(*(way(connection) for connection in connections))  # connections are made
        before, began = (cpu_seconds(pids), cpu_seconds(central.gateway)), time.perf_counter()
        await asyncio.gather(*map(call, connections))
        seconds = time.perf_counter() - began
        spent = cpu_seconds(pids) - before[0], cpu_seconds(central.gateway) - before[1]
    finally:
        for connection in connections:
            connection.close()
    return Cell(spent[0] * 1000 / requests, spent[1] * 1000 / requests, requests / seconds)


def _family(nginx: Tree) -> list[int]:
    """nginx's processes, which are the tree's without a follower of ours."""
    found, level = list[int](), [*nginx.roots]
    while level:
        found += level
        level = [int(c) for p in level for c in Path(f"/proc/{p}/task/{p}/children").read_text().split()]
    return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text().strip() == "nginx"]


@asynccontextmanager
async def central_tier() -> AsyncIterator[Central]:
    """One gateway, two workers that swallow, and an nginx for each way."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-central-")))
        for number in range(1, 5):
            (folder / str(number)).mkdir()
        settings = {"request-timeout": 60}
        running = await stack.enter_async_context(cluster(Plan(nodes=(Node("gateway", "gateway1", settings),))))
        workers = [await _worker(stack, running, f"worker{number}", folder) for number in (1, 2)]
        internal = str(running.of("gateway")[0].event["internal_url"])
        ports = {name: free_port() for name in ("proxy", "fast path", "unkept", "plain")}
        followed, alone = ("--discovery", running.discovery), ("--gateways", internal)
        nginxes = {
            "proxy": await _nginx(stack, folder / "1", ports["proxy"], *followed, "--no-fast-path"),
            "fast path": await _nginx(stack, folder / "2", ports["fast path"], *followed),
            "unkept": await _nginx(stack, folder / "3", ports["unkept"], *alone),
            "plain": await _plain(stack, folder / "4", ports["plain"], workers[0]),
        }
        ports["gateway"] = int(running.gateways[0].rpartition(":")[2])
        pids = running.of("gateway")[0].pids["gateway"]
        central = Central(running.api_key, photos.make(1)[0], ports, nginxes, pids)
        await _until_known(central)
        yield central


async def _worker(stack: AsyncExitStack, running: Running, name: str, folder: Path) -> str:
    command = [sys.executable, "-m", "bench.swallowing_worker", running.discovery, name]
    tree = await Tree.start(name, command, {}, folder)
    stack.push_async_callback(tree.stop)
    return (await tree.line(_START_SECONDS)).decode().strip()


async def _nginx(stack: AsyncExitStack, folder: Path, port: int, *flags: str) -> Tree:
    user = ("--user", "root") if os.geteuid() == 0 else ()
    command = [
        *(sys.executable, "-m", "nginx", "--start", "--processes", "1", "--port", str(port), *flags, *user),
        *("--file", str(folder / "nginx.conf"), "--pid-file", str(folder / "pid"), "--folder", str(folder / "bodies")),
        *("--address-rate", "0", "--address-connections", "0", "--pause", "0"),
    ]
    tree = await Tree.start("follower", command, {}, folder)
    stack.push_async_callback(tree.stop)
    await tree.line(_START_SECONDS)
    await _until_it_answers(port)
    return tree


async def _plain(stack: AsyncExitStack, folder: Path, port: int, worker: str) -> Tree:
    path = _write(folder, _PLAIN.format(folder=folder, port=port, worker=worker.removeprefix("http://")))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    user = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    tree = await Tree.start("plain", [program, "-e", "stderr", "-c", str(path), "-g", user], {}, folder)
    stack.push_async_callback(tree.stop)
    await _until_it_answers(port)
    return tree


def _write(folder: Path, text: str) -> Path:
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


async def _until_known(central: Central) -> None:
    """Wait until the gateway knows the workers."""
    way, _ = ways(central)["lookup alone, at the gateway"]
    connection, ends = Connection(), time.monotonic() + _START_SECONDS
    while True:
        try:
            return await way(connection)
        except NotMeasured:
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.1)


async def _until_it_answers(port: int) -> None:
    """HTTP, and not only connections: those are taken by ``nginx -t`` as well."""
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /nothing HTTP/1.0\r\n\r\n")
            said = await reader.read(1)
            writer.close()
            if said:
                return
        except OSError:
            await asyncio.sleep(0.1)
    raise NotMeasured(f"nginx on port {port} did not answer")


async def run(*, rounds: int, requests: int, callers: int) -> str:
    async with central_tier() as central:
        there_are = ways(central)
        names = list(there_are)
        central.cells = {name: [] for name in names}
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                way, nginx = there_are[name]
                cell = await measured(central, way, nginx, requests=requests, callers=callers)
                central.cells[name].append(cell)
                sys.stderr.write(f"{number + 1}/{rounds} {name}: {cell}\n")
        return table(central.cells, len(central.image))


def table(cells: dict[str, list[Cell]], size: int) -> str:
    """Medians, and from the lowest to the highest of the rounds."""
    lines = [
        f"{size:,} bytes an image; {len(next(iter(cells.values())))} rounds.",
        "",
        "| way | CPU s/1,000 | range | nginx's | gateway's | per CPU second |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in cells.items():
        totals = [cell.nginx + cell.gateway for cell in found]
        middle = statistics.median(totals)
        nginx, gateway = (statistics.median(getattr(cell, part) for cell in found) for part in ("nginx", "gateway"))
        span = f"{min(totals):.3f} to {max(totals):.3f}"
        lines.append(f"| {name} | {middle:.3f} | {span} | {nginx:.3f} | {gateway:.3f} | {1000 / middle:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.central", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=1500, help="in one cell")
    parser.add_argument("--callers", type=int, default=8)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that followers and nginx end with it
    text = uvloop.run(run(rounds=arguments.rounds, requests=arguments.requests, callers=arguments.callers))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
