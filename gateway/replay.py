"""Bodies that can be sent to a second worker, within a budget; what does not fit streams through once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from aiohttp import web

from shoal.errors import BodyTooLarge, ShoalError, UploadTimeout

_LARGE = 256 * 1024  # bytes that take longer to hash than a thread to wake


class Stream:
    """A body that passes through once. ``failure`` says why it broke off, when that was not the worker's doing."""

    def __init__(self, request: web.Request, limit: int, start: bytes) -> None:
        self._request = request
        self._limit = limit
        self._start = start
        self.failure: ShoalError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = len(self._start)
        if self._start:
            yield self._start
        async for chunk in self._request.content.iter_any():
            size += len(chunk)
            if size > self._limit:
                self.failure = BodyTooLarge(f"The body has more than {self._limit} bytes.")
                raise self.failure
            yield chunk


Body = bytes | Stream


class ReplayBuffer:
    """The memory that all bodies of a gateway share while they may be needed again."""

    def __init__(self, *, body_bytes: int, total_bytes: int) -> None:
        self._body_bytes = body_bytes
        self._free = total_bytes

    def __repr__(self) -> str:
        return f"<ReplayBuffer {self._free} bytes free>"

    @asynccontextmanager
    async def body(self, request: web.Request, *, limit: int, deadline: float) -> AsyncIterator[Body]:
        """The body of ``request``: its bytes when they fit, else a stream that can be read once.

        Raises ``UploadTimeout`` when the bytes have not come by ``deadline`` (monotonic). Reading more than
        ``limit`` bytes of a stream raises ``BodyTooLarge``.
        """
        most = min(self._body_bytes, limit) if request.content_length is None else request.content_length
        if most > min(self._body_bytes, self._free):
            yield Stream(request, limit, b"")
            return
        self._free -= most
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    start = await _up_to(request, most)
            except TimeoutError:
                raise UploadTimeout from None
            if len(start) > limit:
                raise BodyTooLarge(f"The body has more than {limit} bytes.")
            yield start if request.content.at_eof() else Stream(request, limit, start)
        finally:
            self._free += most


async def digest(body: Body) -> str:
    """The sha256 of a body that was kept; empty for one that streams."""
    if not isinstance(body, bytes):
        return ""
    if len(body) > _LARGE:
        return (await asyncio.to_thread(sha256, body)).hexdigest()
    return sha256(body).hexdigest()


async def _up_to(request: web.Request, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= most and not request.content.at_eof():
        chunk = await request.content.readany()
        parts.append(chunk)
        size += len(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)
