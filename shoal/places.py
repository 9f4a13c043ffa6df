"""Where an operator's orders go: the admin sockets in a folder, or admin listeners on https."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from urllib.parse import urlsplit

import aiohttp

from shoal import sockets, tls

_ASKING = aiohttp.ClientTimeout(total=10)


class NotPossible(Exception):
    """What was asked cannot be done; the message says why."""


@dataclass(frozen=True)
class Place:
    """One admin listener. Without a context it is a unix socket."""

    place: str
    context: SSLContext | None = None

    @property
    def is_remote(self) -> bool:
        return self.context is not None

    @property
    def name(self) -> str:
        """The node's name, which a socket's path says, or the address."""
        return urlsplit(self.place).netloc if self.is_remote else Path(self.place).stem

    @asynccontextmanager
    async def asked(
        self, method: str, call: str, timeout: aiohttp.ClientTimeout = _ASKING
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the process there. Raises ``NotPossible``."""
        connector: aiohttp.BaseConnector
        if self.context is None:
            connector, url = aiohttp.UnixConnector(self.place), f"http://admin{call}"
        else:
            connector, url = aiohttp.TCPConnector(ssl=self.context), f"{self.place}{call}"
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, url) as response,
            ):
                if not response.ok:
                    raise NotPossible((await response.json())["error"])
                yield response
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
            raise NotPossible(f"{self.name} does not answer: {error or type(error).__name__}") from error


@dataclass(frozen=True)
class Remote:
    """The nodes whose admin listeners are at these URLs, for the certificate of an admin."""

    urls: tuple[str, ...]
    context: SSLContext

    def __str__(self) -> str:
        return ", ".join(self.urls)

    @classmethod
    def of(cls, urls: str, files: Sequence[str | None]) -> Remote:
        """``urls`` are separated by commas, ``files`` are certificate, key and CA. Raises ``NotPossible``."""
        if not all(files):
            raise NotPossible(
                "https:// needs the certificate of an admin: --certificate, --key and --ca, or "
                "$SHOAL_ADMIN_CERTIFICATE, $SHOAL_ADMIN_KEY and $SHOAL_ADMIN_CA"
            )
        try:
            context = tls.Files(*(Path(str(name)) for name in files)).calling()
        except ValueError as error:
            raise NotPossible(str(error)) from error
        return cls(tuple(url.strip().rstrip("/") for url in urls.split(",") if url.strip()), context)


Control = Path | Remote
"""Whose nodes are meant: those whose admin sockets, NAME.sock, lie in a folder, or those at URLs."""


def places(control: Control) -> list[Place]:
    """The nodes there: of a folder those that answer, and its launcher."""
    if isinstance(control, Remote):
        return [Place(url, control.context) for url in control.urls]
    return [Place(str(path)) for path in sorted(control.glob("*.sock")) if sockets.answers(path)]
