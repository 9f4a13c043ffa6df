"""Brings a published version to the node, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from shoal.processes import Child

MOST_AT_ONCE = 8
"""A publication may name thousands of versions."""

_STOP_SECONDS = 1.0


async def fetch(orders: Mapping[str, Any], turns: asyncio.Semaphore) -> dict[str, Any]:
    """What ``worker.repository.fetch`` says to its ``orders``, in turn; it ends when this is cancelled."""
    async with turns:
        return await _last_event(orders)


async def _last_event(orders: Mapping[str, Any]) -> dict[str, Any]:
    last = {"event": "failed", "reason": "its process died"}
    try:
        child = await Child.start("fetch", [sys.executable, "-m", "worker.repository.fetch"], orders=orders)
    except OSError as error:
        return last | {"reason": f"no process: {error}"}
    try:
        async for event in child.events():
            last = event
    finally:
        await child.stop(_STOP_SECONDS)
    return last
