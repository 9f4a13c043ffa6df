"""Load with images that differ, at a constant rate whatever the answers do: a process inside the client's host.

python -m chaos.load     (its orders are the first line of standard input; later lines change the rate)
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Literal

import msgspec

from chaos.pictures import Picture, pictures
from shoal import AsyncClient, processes, service
from shoal.client import Mode
from shoal.errors import ShoalError

Priority = Literal["interactive", "bulk"]

_TICK = 0.005


class Orders(msgspec.Struct, frozen=True):
    """``rate`` is arrivals a second, ``bulk_rate`` those of bulk images; half go direct and half by the proxy."""

    gateways: list[str]
    api_key: str
    rate: float = 0.0
    bulk_rate: float = 0.0
    closed: int = 0
    timeout: float = 30.0
    modes: tuple[Mode, ...] = ("direct", "proxy")
    seed: int = 0


class Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request that has ended. ``began`` is on the monotonic clock, ``code`` is ``ok`` or the error's."""

    mode: Mode
    priority: Priority
    request_id: str
    began: float
    seconds: float
    code: str
    worker: str = ""
    attempt: int = 0
    right: bool = False
    late: float = 0.0
    error: str = ""


class Arrivals:
    """Starts a request at each due time, and reports each end to the parent."""

    def __init__(self, orders: Orders, clients: dict[Mode, AsyncClient]) -> None:
        self.orders = orders
        self._clients = clients
        self._pictures = pictures(orders.seed)
        self._modes = itertools.cycle(orders.modes)
        self._numbers = itertools.count()
        self._calls: dict[asyncio.Task[None], float] = {}
        self._words: list[Answered] = []

    def __repr__(self) -> str:
        return f"<Arrivals {self.orders.rate}/s, {len(self._calls)} under way>"

    async def keep_arriving(self, priority: Priority) -> None:
        """Arrivals at the rate of the orders, however it changes, for ever."""
        due = time.monotonic()
        while True:
            rate = self.orders.rate if priority == "interactive" else self.orders.bulk_rate
            if rate <= 0:
                await asyncio.sleep(0.05)
                due = time.monotonic()
                continue
            due += 1 / rate
            if (ahead := due - time.monotonic()) > _TICK:
                await asyncio.sleep(ahead)
            self._start(priority, due)

    async def keep_busy(self) -> None:
        """As many requests under way as the orders say: each end is the next beginning."""
        while True:
            while len(self._calls) < self.orders.closed:
                self._start("interactive", time.monotonic())
            await asyncio.sleep(_TICK)

    def _start(self, priority: Priority, due: float) -> None:
        call = asyncio.create_task(self._call(next(self._modes), priority, next(self._pictures), due))
        self._calls[call] = time.monotonic()
        call.add_done_callback(self._calls.pop)

    async def _call(self, mode: Mode, priority: Priority, picture: Picture, due: float) -> None:
        began = time.monotonic()
        try:
            answer = await self._clients[mode].predict(picture.data, priority=priority, timeout=self.orders.timeout)
        except ShoalError as error:
            end = Answered(
                mode, priority, error.request_id or "", began, time.monotonic() - began, error.code, error=repr(error)
            )
        else:
            end = Answered(
                mode,
                priority,
                str(answer.document["request_id"]),
                began,
                time.monotonic() - began,
                "ok",
                answer.worker,
                int(answer.document["attempt"]),
                answer.predictions[0].label == picture.label,
                began - due,
            )
        self._words.append(end)

    async def give_up(self) -> None:
        """End what is under way, without a report."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def keep_telling(self) -> None:
        """Report in batches: a line for each request would cost as much as the request."""
        while True:
            await asyncio.sleep(0.05)
            words, self._words = self._words, []
            oldest = min(self._calls.values(), default=time.monotonic())
            processes.tell_parent({"event": "answered", "ends": msgspec.to_builtins(words), "oldest": oldest})

    async def follow(self, lines: AsyncIterator[bytes]) -> None:
        """Take new orders; the end of them is our end."""
        async for line in lines:
            changes: dict[str, Any] = msgspec.json.decode(line)
            self.orders = msgspec.structs.replace(self.orders, **changes)
        raise SystemExit(0)


async def _main() -> int:
    stop = service.Stop()
    stop.listen()
    lines = service.lines_of_stdin()
    orders = msgspec.json.decode(await anext(lines), type=Orders)
    random.seed(orders.seed)
    async with AsyncExitStack() as stack:
        gateways = ",".join(orders.gateways)
        modes: tuple[Mode, ...] = ("direct", "proxy")
        clients = {
            mode: await stack.enter_async_context(AsyncClient(gateways, api_key=orders.api_key, mode=mode))
            for mode in modes
        }
        arrivals = Arrivals(orders, clients)
        loops = (
            arrivals.keep_arriving("interactive"),
            arrivals.keep_arriving("bulk"),
            arrivals.keep_busy(),
            arrivals.keep_telling(),
            arrivals.follow(lines),
        )
        async with service.background(*loops):
            processes.tell_parent({"event": "ready"})
            await stop.requested()
        await arrivals.give_up()
    return 0


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(service.run(_main()))
