"""Keeping child processes alive: start, listen, notice the death, clean up after it, start again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from shoal.processes import Child

log = logging.getLogger(__name__)

_BACKOFF_MOST = 5.0
_STABLE_SECONDS = 10.0


class Keeper:
    """One child that is to run until ``stop``.

    ``start`` makes a new incarnation of it, of which ``started`` is told; ``heard`` gets each of its events;
    ``buried`` is told of every end, wanted or not, before the next incarnation starts. A child stays down when
    ``stays_down`` says so of the exit code that it ended with unasked.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Child]],
        *,
        heard: Callable[[Child, dict[str, Any]], None],
        buried: Callable[[Child], Awaitable[None]],
        stop_timeout: float,
        started: Callable[[], None] = lambda: None,
        stays_down: Callable[[int], bool] = lambda code: False,
    ) -> None:
        self.name = name
        self.child: Child | None = None
        self.deaths = 0
        self._start = start
        self._heard = heard
        self._buried = buried
        self._stop_timeout = stop_timeout
        self._started = started
        self._stays_down = stays_down
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Keeper {self.name}: {self.child}, {self.deaths} deaths>"

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def run(self) -> None:
        """Return when the child was stopped, or ended and stays down."""
        quick_deaths = 0
        stays_down = False
        while not (self._stopping.is_set() or stays_down):
            child = self.child = await self._start()
            started = time.monotonic()
            if self._stopping.is_set():
                await child.stop(self._stop_timeout)
            self._started()
            async for event in child.events():
                self._heard(child, event)
            code = await child.wait()
            stays_down = not self.is_stopping and self._stays_down(code)
            if stays_down:
                log.info("process ended and stays down", extra={"child": self.name, "code": code})
            elif not self.is_stopping:
                self.deaths += 1
                quick_deaths = 0 if time.monotonic() - started > _STABLE_SECONDS else quick_deaths + 1
                log.warning("process died", extra={"child": self.name, "child_pid": child.pid, "code": code})
            await self._buried(child)
            if quick_deaths > 1:
                await self._pause(min(_BACKOFF_MOST, 0.1 * 2**quick_deaths))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def stop(self) -> None:
        """End the child and do not start another."""
        self._stopping.set()
        if self.child is not None:
            await self.child.stop(self._stop_timeout)


@asynccontextmanager
async def keeping(*keepers: Keeper) -> AsyncIterator[None]:
    """Keep children alive during the body, then stop them all at once and wait for their ends."""
    async with asyncio.TaskGroup() as group:
        for keeper in keepers:
            group.create_task(keeper.run())
        try:
            yield
        finally:
            await asyncio.gather(*(keeper.stop() for keeper in keepers))
