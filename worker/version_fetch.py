"""Brings a published version to the node, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from shoal.processes import Child

_STOP_SECONDS = 1.0


async def fetch(orders: Mapping[str, Any]) -> dict[str, Any]:
    """What ``worker.repository.fetch`` says to its ``orders``; it ends when this is cancelled."""
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
