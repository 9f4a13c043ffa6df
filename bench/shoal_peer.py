"""Shoal as a user gets it: ``shoal up`` with one worker, asked by proxy, and direct with lookup and ticket."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from bench.load import post, read
from bench.model import Task

_USES = 16
_EXPIRY_MARGIN = 2.0
_LOOKUPS_AT_MOST = 3


def command(task: Task) -> list[str]:
    """Prints one line of JSON when the cluster is ready, and runs until SIGTERM."""
    start = "import sys; from shoal.cli import main; sys.exit(main())"
    return [sys.executable, "-c", start, "up", "--json", "--workers", "1", "--model", task.model]


class Proxy:
    """The photo goes through the gateway."""

    def __init__(self, cluster: Mapping[str, Any]) -> None:
        self._url = f"{cluster['gateway']}/predict"
        self._headers = {"Authorization": f"Bearer {cluster['api_key']}", "Content-Type": "image/jpeg"}

    async def __call__(self, session: aiohttp.ClientSession, jpeg: bytes) -> Mapping[str, Any]:
        return await post(session, self._url, data=jpeg, headers=self._headers)


class Direct:
    """The gateway only says where; the photo goes straight to the worker. One lookup serves several photos."""

    def __init__(self, cluster: Mapping[str, Any]) -> None:
        model = cluster["models"][0].partition("@")[0]
        self._lookup = f"{cluster['gateway']}/lookup?model={model}&n={_USES}"
        self._headers = {"Authorization": f"Bearer {cluster['api_key']}"}
        self._lock = asyncio.Lock()
        self._grant: Mapping[str, Any] = {}
        self._uses = 0
        self._expires = 0.0

    async def __call__(self, session: aiohttp.ClientSession, jpeg: bytes) -> Mapping[str, Any]:
        url, ticket = await self._take(session)
        headers = {"Authorization": f"Bearer {ticket}", "Content-Type": "image/jpeg"}
        return await post(session, url, data=jpeg, headers=headers)

    async def _take(self, session: aiohttp.ClientSession) -> tuple[str, str]:
        async with self._lock:
            for _ in range(_LOOKUPS_AT_MOST):
                if self._uses > 0 and time.monotonic() < self._expires:
                    break
                await self._look_up(session)
            self._uses -= 1
            return self._grant["url"], self._grant["ticket"]

    async def _look_up(self, session: aiohttp.ClientSession) -> None:
        async with session.get(self._lookup, headers=self._headers) as response:
            self._grant = await read(response)
        self._uses = int(self._grant["uses"])
        self._expires = time.monotonic() + max(0.5, float(self._grant["expires_in"]) - _EXPIRY_MARGIN)
