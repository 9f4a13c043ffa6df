"""Bodies that can be sent to a second worker, within a budget; what does not fit streams through once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from shoal.errors import BodyTooLarge

Body = bytes | AsyncIterator[bytes]


class ReplayBuffer:
    """The memory that all bodies of a gateway share while they may be needed again."""

    def __init__(self, *, body_bytes: int, total_bytes: int) -> None:
        self._body_bytes = body_bytes
        self._free = total_bytes

    def __repr__(self) -> str:
        return f"<ReplayBuffer {self._free} bytes free>"

    @asynccontextmanager
    async def body(self, request: web.Request, limit: int) -> AsyncIterator[Body]:
        """The body of ``request``: its bytes when they fit, else a stream that can be read once.

        Reading more than ``limit`` bytes raises ``BodyTooLarge``.
        """
        most = self._body_bytes if request.content_length is None else request.content_length
        if most > min(self._body_bytes, self._free):
            yield _stream(request, limit, b"")
            return
        self._free -= most
        try:
            start = await _up_to(request, most)
            if request.content.at_eof():
                yield start
            else:
                yield _stream(request, limit, start)
        finally:
            self._free += most


async def _up_to(request: web.Request, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < most or not parts:
        chunk = await request.content.readany()
        if not chunk:
            break
        parts.append(chunk)
        size += len(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _stream(request: web.Request, limit: int, start: bytes) -> AsyncIterator[bytes]:
    size = len(start)
    if start:
        yield start
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The body has more than {limit} bytes.")
        yield chunk
