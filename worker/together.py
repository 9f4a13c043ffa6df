"""Several things at once for one request: all of them, or the first failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def together(waits: Sequence[Awaitable[T]]) -> list[T]:
    """The results of all, in order; the first failure ends the others and is raised."""
    if len(waits) == 1:
        return [await waits[0]]
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
