"""The hosts' only way to the outside: a caching HTTP proxy that fetches for apt, and nothing else.

apt checks signatures and checksums itself, so what is kept need not be trusted; it is kept for names that say what they
hold: packages, and lists by their hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from yarl import URL

PORT = 3142
_TIMEOUT = ClientTimeout(total=300, sock_connect=20)
_CHUNK = 1 << 16


class AptProxy:
    """Answers a proxy's requests out of ``folder``, or from the mirror."""

    def __init__(self, session: ClientSession, folder: Path) -> None:
        self._session, self._folder = session, folder
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        url = request.raw_path
        if request.method != "GET" or not url.startswith("http://"):
            return web.Response(status=403, text="only GET of http:// addresses\n")
        async with self._locks[url]:
            try:
                return await self._file(url) if _is_constant(url) else await self._passed_on(url)
            except ClientError as error:
                return web.Response(status=502, text=f"{error}\n")

    async def _file(self, url: str) -> web.StreamResponse:
        kept = self._folder / hashlib.sha256(url.encode()).hexdigest()
        if not kept.exists():
            async with self._session.get(URL(url, encoded=True)) as found:
                if found.status != 200:
                    return web.Response(status=found.status)
                with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as part:
                    async for chunk in found.content.iter_chunked(_CHUNK):
                        part.write(chunk)
                os.replace(part.name, kept)  # noqa: PTH105
        return web.FileResponse(kept)

    async def _passed_on(self, url: str) -> web.StreamResponse:
        async with self._session.get(URL(url, encoded=True)) as found:
            return web.Response(status=found.status, body=await found.read())


def _is_constant(url: str) -> bool:
    return url.endswith(".deb") or "/by-hash/" in url


@asynccontextmanager
async def apt_proxy(listening: socket, folder: Path) -> AsyncIterator[None]:
    """Serve on ``listening``, a bound socket, until left. ``folder`` exists."""
    async with ClientSession(timeout=_TIMEOUT, auto_decompress=False) as session:
        runner = web.ServerRunner(web.Server(AptProxy(session, folder).answer, access_log=None))
        await runner.setup()
        try:
            await web.SockSite(runner, listening).start()
            yield
        finally:
            await runner.cleanup()
