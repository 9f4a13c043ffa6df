"""Whether those that a client waits for are still there: asked when an answer takes long, once for all who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_AFTER, _EVERY = 2.0, 0.5


class Gone(Exception):
    """Whoever was to answer is not there any more, or hangs."""


class Presence:
    """``ask`` finds out whether what a name stands for is there; it raises nothing."""

    def __init__(self, ask: Callable[[str], Awaitable[bool]]) -> None:
        self._ask = ask
        self._questions: dict[str, tuple[float, asyncio.Future[bool]]] = {}

    def __repr__(self) -> str:
        return f"<Presence, {len(self._questions)} asked about>"

    def close(self) -> None:
        for _, question in self._questions.values():
            question.cancel()

    async def watched(self, name: str, work: Awaitable[T]) -> T:
        """What ``work`` returns. Raises ``Gone`` when ``name`` turns out not to be there meanwhile."""
        try:
            async with asyncio.timeout(None) as scope:
                watch = asyncio.create_task(self._watch(name, scope))
                try:
                    return await work
                finally:
                    watch.cancel()
        except TimeoutError:
            if scope.expired():
                raise Gone from None
            raise

    async def _watch(self, name: str, scope: asyncio.Timeout) -> None:
        await asyncio.sleep(_AFTER)
        while True:
            if not await self._is_there(name):
                scope.reschedule(asyncio.get_running_loop().time())
                return
            await asyncio.sleep(_EVERY)

    async def _is_there(self, name: str) -> bool:
        asked, question = self._questions.get(name, (float("-inf"), None))
        if question is None or time.monotonic() - asked > _EVERY:
            question = asyncio.ensure_future(self._ask(name))
            self._questions = {n: q for n, q in self._questions.items() if not q[1].done()}
            self._questions[name] = time.monotonic(), question
        return await asyncio.shield(question)
