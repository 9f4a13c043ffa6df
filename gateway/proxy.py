"""The byte path: one body to one worker and its answer back. Another way to carry bytes replaces this file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)

from gateway.replay import Body
from shoal.tls import Calls, NotEncrypted

_CONNECT_SECONDS = 2.0


class NotSent(Exception):
    """No connection: the worker has seen nothing."""


class Broken(Exception):
    """The connection broke after the request was begun, or what came is no answer: the worker may have executed it."""


@asynccontextmanager
async def unless_silent(scope: asyncio.Timeout) -> AsyncIterator[None]:
    """Raises ``Broken`` when the ``scope`` of a worker's requests ends, which it does when the worker falls silent."""
    try:
        async with scope:
            yield
    except TimeoutError:
        if scope.expired():
            raise Broken("the worker fell silent") from None
        raise


@dataclass(frozen=True)
class Answer:
    """A worker's answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Proxy:
    """Connections to the workers. Construct with ``Proxy.open``."""

    def __init__(self, session: ClientSession, calls: Calls) -> None:
        self._session = session
        self._calls = calls

    @classmethod
    @asynccontextmanager
    async def open(cls, calls: Calls | None = None) -> AsyncIterator[Proxy]:
        """``calls`` says how to speak to workers; by default in plain HTTP."""
        connector = TCPConnector(limit=0, keepalive_timeout=30)
        async with ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        ) as session:
            yield cls(session, calls or Calls(None, "worker"))

    async def send(self, url: str, body: Body, headers: Mapping[str, str], *, deadline: float) -> Answer:
        """POST ``body``. Raises ``NotSent`` or ``Broken``, and ``TimeoutError`` at ``deadline`` (monotonic)."""
        return await self._exchange("POST", url, body, headers, deadline)

    async def ask(self, url: str, headers: Mapping[str, str], *, deadline: float, method: str = "GET") -> Answer:
        """A request without a body. Raises as ``send``."""
        return await self._exchange(method, url, None, headers, deadline)

    async def _exchange(
        self, method: str, url: str, body: Body | None, headers: Mapping[str, str], deadline: float
    ) -> Answer:
        timeout = ClientTimeout(total=max(0.001, deadline - time.monotonic()), sock_connect=_CONNECT_SECONDS)
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                **self._calls.terms(url),
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except (ClientConnectorError, NotEncrypted) as error:
            raise NotSent(str(error)) from error
        except TimeoutError as error:
            if time.monotonic() < deadline - 0.01:  # the connection's own timeout
                raise NotSent("no connection in time") from error
            raise
        except ClientError as error:
            raise Broken(str(error) or type(error).__name__) from error
