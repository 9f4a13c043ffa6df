"""Tells systemd how a service is, where systemd asked (``Type=notify``, ``WatchdogSec=``); elsewhere it is silent.

Alive is more than an event loop that turns: a service names what has to hold for it to be of use, and while that does
not hold systemd hears nothing, so it ends the service and starts it again. The messages are those of sd_notify(3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Self

log = logging.getLogger(__name__)

_SOCKET, _WATCHDOG_TIME, _WATCHDOG_PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_PINGS_PER_TIMEOUT = 3
_MICRO = 1_000_000


class Notifier:
    """The way to systemd. ``address`` is the path of its socket, empty where there is none; without ``watchdog``, a
    time limit in seconds, it does not want to hear that we are alive."""

    def __init__(self, address: str = "", *, watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._needed: dict[str, Callable[[], bool]] = {}
        self._lost: list[str] = []

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r}, watchdog {self._watchdog:g} s, {len(self._needed)} things needed>"

    @classmethod
    def from_environment(cls) -> Self:
        """What systemd asks of this process. The variables are taken away: our children are not meant."""
        address, time, process = (os.environ.pop(n, "") for n in (_SOCKET, _WATCHDOG_TIME, _WATCHDOG_PROCESS))
        is_meant = time.isdecimal() and process in ("", str(os.getpid()))
        return cls(address, watchdog=int(time) / _MICRO if is_meant else 0.0)

    def need(self, name: str, holds: Callable[[], bool]) -> None:
        """From now on, and until it drains, the service is alive only when ``holds()``."""
        self._needed[name] = holds

    async def keep_telling(self) -> None:
        """Say that the service is alive, as long as it is, until cancelled."""
        while self._address and self._watchdog:
            lost = [name for name, holds in self._needed.items() if not holds()]
            if not lost:
                self._send("WATCHDOG=1")
            elif lost != self._lost:
                log.error("not alive, so systemd hears nothing", extra={"lost": ", ".join(lost)})
            self._lost = lost
            await asyncio.sleep(self._watchdog / _PINGS_PER_TIMEOUT)

    def say(self, status: str) -> None:
        """What ``systemctl status`` shows."""
        self._send(f"STATUS={status}")

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def draining(self, status: str, *, seconds: float) -> None:
        """The service stops, and may take so many seconds, whatever ``TimeoutStopSec=`` says.

        From now on it needs nothing: that time limit is enough.
        """
        self._needed.clear()
        self._send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={round(seconds * _MICRO)}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.setblocking(False)
                connection.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("systemd does not hear", extra={"message_lost": message, "error": str(error)})
