"""Sockets in another process's network namespace, while ours stays where it is."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # linux/sched.h


def enter(network: int) -> None:
    """Move the calling thread into the network namespace of this file descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def network_of(pid: int) -> int:
    """A file descriptor of that process's network namespace, which the caller closes."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def within(pid: int, make: Callable[[], T]) -> T:
    """Call ``make`` in the namespace of ``pid``, in a thread that ends with it. What it opens stays there."""

    def run() -> T:
        network = network_of(pid)
        try:
            enter(network)
        finally:
            os.close(network)
        return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def tcp_socket(pid: int) -> socket.socket:
    """A TCP socket in the namespace of ``pid``, not blocking, neither bound nor connected."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        return made

    return within(pid, make)
