"""The line to one worker: a connection of its own, over which its load report is asked for again and again.

A large fleet is asked hundreds of times a second, and a general HTTP client takes several times the CPU for a question
that is always the same (docs/scaling.md has the numbers).
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from urllib.parse import urlsplit

from shoal import http
from shoal.tls import Calls

_LONGEST = 1 << 20  # bytes of a head, or of a report
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d{1,7})\r\n")
_LAST = re.compile(rb"(?i)\r\nconnection: *close\r\n")


class Line:
    """Asks as the gateway ``name``; ``calls`` says how to speak to workers. Opens on first use."""

    def __init__(self, name: str, calls: Calls) -> None:
        self._name = name
        self._calls = calls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._question: tuple[str, bytes] = ("", b"")

    def __repr__(self) -> str:
        return f"<Line of {self._name}, {'open' if self._streams else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the next question needs no new connection, as far as we have heard."""
        return self._streams is not None and not self._streams[0].at_eof()

    async def ask(self, url: str) -> tuple[int, bytes]:
        """The status and the body of ``GET url/load``. Raises ``OSError``, or ``ValueError`` for what is not HTTP.

        A connection that the worker has closed since the last question is opened again.
        """
        try:
            if self._streams is not None:
                try:
                    return await self._exchange(self._streams, url)
                except ConnectionError:
                    self.close()
            self._streams = await self._connect(url)
            return await self._exchange(self._streams, url)
        except BaseException:  # the answer may still come, and would be taken for that to the next question
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connect(self, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(url)
        if parts.hostname is None:
            raise ValueError(f"no host in {url!r}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        terms = self._calls.terms(url)
        return await asyncio.open_connection(parts.hostname, port, limit=_LONGEST, **terms)

    async def _exchange(
        self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], url: str
    ) -> tuple[int, bytes]:
        reader, writer = streams
        if self._question[0] != url:
            parts = urlsplit(url)
            line = f"GET {parts.path.rstrip('/')}/load HTTP/1.1"
            self._question = url, f"{line}\r\nHost: {parts.netloc}\r\n{http.GATEWAY}: {self._name}\r\n\r\n".encode()
        writer.write(self._question[1])
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            status, length = _STATUS.match(answer), _LENGTH.search(answer)
            if status is None or length is None or int(length[1]) > _LONGEST:
                raise ValueError("no answer of a worker")
            body = await reader.readexactly(int(length[1]))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the worker closed the connection") from error
        except asyncio.LimitOverrunError as error:
            raise ValueError("no answer of a worker") from error
        if _LAST.search(answer):
            self.close()
        return HTTPStatus(int(status[1])), body
