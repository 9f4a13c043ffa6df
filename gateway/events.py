"""``GET /events``: the cluster's state as server-sent events (HTML standard), for pages that show it live.

A listener hears ``hello`` (who it is), then ``state``: the whole state at once and again each second in which it has
changed. One that reads slowly misses states, and never makes us keep them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway import state
from gateway.fleet import Fleet
from gateway.rates import Rates
from shoal import http, logs
from shoal.errors import Draining, TooManyListeners, Unauthorized
from shoal.keys import Holder

log = logging.getLogger(__name__)

_INTERVAL = 1.0
_HEARTBEAT = 10.0
_WRITE_SECONDS = 20.0  # a listener that takes nothing for so long is gone
_MOST_LISTENERS = 100
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Events:
    """The state that listeners hear, kept while ``run`` runs."""

    def __init__(self, name: str, fleet: Fleet, *, most: int = _MOST_LISTENERS) -> None:
        self._name = name
        self._fleet = fleet
        self.proxied_bytes = 0
        self._most = most
        self._rates = Rates()
        self._latest = ""
        self._news = asyncio.Event()
        self._listeners = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Events: {self._listeners} listeners>"

    async def run(self) -> None:
        """Look once a second, for rates are differences over time."""
        while True:
            self.look()
            await asyncio.sleep(_INTERVAL)

    def look(self) -> None:
        """Take the state as it is now, and tell it if it is another one. Without listeners nobody is told."""
        self._rates.sample(self._fleet)
        if not self._listeners:
            self._latest = ""
            return
        self._tell_all()

    def _tell_all(self) -> None:
        latest = http.dumps(self._document())
        if latest != self._latest:
            self._latest = latest
            self._wake()

    def close(self) -> None:
        """Take no more listeners, and let those go that there are: the gateway drains."""
        self._is_closed = True
        self._wake()

    async def listen(self, request: web.Request, check: Callable[[], Holder]) -> web.StreamResponse:
        """Tell the caller until it goes, until ``close``, or until ``check``, which says who it is, does not know it.

        Raises ``TooManyListeners``, ``Draining``, or what ``check`` raises.
        """
        holder = check()
        if self._is_closed:
            raise Draining("This gateway is draining.")
        if self._listeners >= self._most:
            raise TooManyListeners(retry_after=_HEARTBEAT)
        response = web.StreamResponse(headers={**_HEADERS, http.REQUEST_ID: logs.request_id.get()})
        self._listeners += 1
        try:
            if not self._latest:
                self._tell_all()
            await response.prepare(request)
            await self._write(response, _event("hello", http.dumps({"name": holder.name, "admin": holder.is_admin})))
            await self._tell(response, check)
        except (TimeoutError, ConnectionError) as error:
            log.info("listener gone", extra={"error": type(error).__name__})
            if request.transport is not None:
                request.transport.abort()  # closing would wait until it reads
        finally:
            self._listeners -= 1
        return response

    async def _tell(self, response: web.StreamResponse, check: Callable[[], Holder]) -> None:
        told = ""
        while not self._is_closed:
            try:
                check()
            except Unauthorized:
                return
            news = self._news
            if self._latest and told != self._latest:
                told = self._latest
                await self._write(response, _event("state", told))
                continue
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await news.wait()
            except TimeoutError:
                await self._write(response, ": still here\n\n")

    async def _write(self, response: web.StreamResponse, text: str) -> None:
        async with asyncio.timeout(_WRITE_SECONDS):
            await response.write(text.encode())

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _document(self) -> dict[str, Any]:
        """Without what changes though nothing happens."""
        document = state.document(self._name, self._fleet)
        for worker in document["workers"]:
            for load in worker["models"].values():
                del load["idle"]
        return {**document, "minute": self._rates.document(), "proxied_bytes": self.proxied_bytes}


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
