"""Background loops that outlive their foreign system's absence, and say once that it went and once that it came."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

from discovery.backend import DiscoveryUnavailable

LONGEST_RETRY = 2.0


@asynccontextmanager
async def background(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Run ``work`` while the context is open.

    Not a ``TaskGroup``, because that would wrap every exception of its body in a group.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


class Reachability:
    """Whether ``what`` answers: the log speaks when that changes or the kind of error does, not at every try."""

    def __init__(self, what: str, log: logging.Logger) -> None:
        self._what, self._log = what, log
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Reachability {self._what}: {self.error or 'answers'}>"

    def lost(self, error: Exception) -> None:
        if type(error) is not type(self.error):
            expected = isinstance(error, DiscoveryUnavailable | OSError)
            self._log.warning("%s: %s", self._what, error, exc_info=None if expected else error)
        self.error = error

    def found(self) -> None:
        if self.error is not None:
            self._log.info("%s: back, after %s", self._what, self.error)
        self.error = None


async def repeat(
    step: Callable[[], Awaitable[None]],
    *,
    every: float,
    reachability: Reachability,
    wake: asyncio.Event | None = None,
) -> None:
    """Do ``step`` for ever, ``every`` seconds apart (with jitter) or when ``wake`` is set.

    After an error it is tried again soon, then less and less often, at least every ``LONGEST_RETRY`` seconds.
    """
    wake, retry = wake or asyncio.Event(), 0.1
    while True:
        wake.clear()
        try:
            await step()
        except Exception as error:  # a member that stops registering or following would be lost in silence
            reachability.lost(error)
            pause = retry = min(2 * retry, LONGEST_RETRY)
        else:
            reachability.found()
            pause, retry = every, 0.1
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter, not a secret
                await wake.wait()
