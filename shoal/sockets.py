"""Unix sockets: how long a path may be, who may connect, and what a dead process left of one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_PATH_BYTES = 107  # sun_path in sys/un.h, less the zero at its end


def check_path(path: str | Path) -> str:
    """The absolute ``path`` of a unix socket. Raises ``ValueError`` when the kernel would not take it."""
    absolute = str(Path(path).expanduser().absolute())
    if (size := len(os.fsencode(absolute))) > MOST_PATH_BYTES:
        raise ValueError(f"{absolute} has {size} bytes; the path of a unix socket has {MOST_PATH_BYTES} at most")
    return absolute


@contextmanager
def bound(path: str | Path) -> Iterator[socket.socket]:
    """A unix socket with mode 0600 in place of one that a dead process left; its path is gone afterwards.

    Raises ``OSError``, also when another process serves there.
    """
    if answers(path):
        raise OSError(errno.EADDRINUSE, "another process serves on this socket", str(path))
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        try:
            Path(path).chmod(0o600)  # before it listens, so there is no moment in which others can connect
            sock.setblocking(False)
            yield sock
        finally:
            Path(path).unlink(missing_ok=True)


def answers(path: str | Path) -> bool:
    """Whether a process listens on the unix socket ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
