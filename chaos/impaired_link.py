"""A process that carries Ethernet frames between two TAP devices, late and with losses: for kernels without netem.

Its devices belong to the namespace that it is started in, and vanish when it ends. Frames keep their order, as they do
on a cable, so jitter stretches the gaps between them but swaps none.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from shoal import processes, service

MOST_WAITING = 4096  # frames in one direction; more are lost, as in a real device's buffer
_FRAME = 65536
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h


class Orders(msgspec.Struct, frozen=True):
    """The first line on standard input: two device names, seconds, and the share of frames that is lost."""

    devices: tuple[str, str]
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0


class Lane:
    """One direction: frames that wait for their time. ``emit`` gets each when it is due."""

    def __init__(self, orders: Orders, emit: Callable[[bytes], None], chance: random.Random) -> None:
        self._orders, self._emit, self._chance = orders, emit, chance
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._last = 0.0

    def __repr__(self) -> str:
        return f"<Lane with {len(self._waiting)} frames>"

    def accept(self, frame: bytes, now: float) -> None:
        """Take a frame at ``now``, or lose it."""
        orders = self._orders
        if self._chance.random() < orders.loss or len(self._waiting) >= MOST_WAITING:
            return
        due = now + orders.delay + self._chance.uniform(-orders.jitter, orders.jitter)
        self._last = max(now, self._last, due)
        self._waiting.append((self._last, frame))

    def release(self, now: float) -> float | None:
        """Emit what is due at ``now``; returns when the next frame is."""
        while self._waiting and self._waiting[0][0] <= now:
            self._emit(self._waiting.popleft()[1])
        return self._waiting[0][0] if self._waiting else None


class Carrier:
    """Moves frames from one device into a lane, and wakes it when its next frame is due."""

    def __init__(self, source: int, target: int, orders: Orders) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._target = source, target
        self._lane = Lane(orders, self._write, random.Random())  # noqa: S311
        self._alarm: asyncio.TimerHandle | None = None
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._lane.accept(os.read(self._source, _FRAME), self._loop.time())
                self._release()

    def _release(self) -> None:
        due = self._lane.release(self._loop.time())
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if due is None else self._loop.call_at(due, self._release)

    def _write(self, frame: bytes) -> None:
        with suppress(OSError):  # the device is down or its queue is full: the frame is lost
            os.write(self._target, frame)


def open_tap(name: str) -> int:
    """A new TAP device of this name, which lives as long as the returned descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


async def _main() -> int:
    stop = service.Stop()
    stop.listen()
    lines = service.lines_of_stdin()
    orders = msgspec.json.decode(await anext(lines), type=Orders)
    near, far = (open_tap(name) for name in orders.devices)
    _carriers = Carrier(near, far, orders), Carrier(far, near, orders)
    async with service.background(service.hold_lifeline(lines)):
        processes.tell_parent({"event": "ready"})
        await stop.requested()
    return 0


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(service.run(_main()))
