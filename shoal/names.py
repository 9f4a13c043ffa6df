"""Host names as addresses, for nginx: it learns no name while it runs, and refuses a whole file for one."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import monotonic
from urllib.parse import urlsplit

__all__ = ["Names"]

log = logging.getLogger(__name__)

_KNOWN_SECONDS = 30.0
_LONGEST = 2.0
_MOST = 10_000  # names that are remembered


@dataclass
class _Name:
    addresses: tuple[str, ...] = ()
    until: float = 0.0
    failed: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Names:
    """What names mean, asked again from time to time. A name that is not known any more means what it did before."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def __repr__(self) -> str:
        return f"<Names: {len(self._names)}>"

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Those of a name in an order that is the same everywhere, IPv4 first; none of one that nobody knows."""
        if _is_address(host):
            return (host,)
        if len(self._names) >= _MOST:
            self._names.clear()
        name = self._names.setdefault(host, _Name())
        async with name.lock:
            if name.until < monotonic():
                await _ask(host, name)
        return name.addresses

    async def with_address(self, url: str) -> str:
        """``url`` with the first address of its host, or as it is when nobody knows one."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if _is_address(host):
            return url
        for address in await self.addresses(host):
            bare = f"[{address}]" if ":" in address else address
            return parts._replace(netloc=bare if parts.port is None else f"{bare}:{parts.port}").geturl()
        return url


async def _ask(host: str, name: _Name) -> None:
    try:
        async with asyncio.timeout(_LONGEST):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter of what is too long for a name; a timeout is an OSError
        if not name.failed:
            log.warning("no address of a name", extra={"host": host, "error": str(error), "before": name.addresses})
        name.failed = True
    else:
        order = {(family != socket.AF_INET, str(address[0])) for family, *_, address in found}
        name.addresses = tuple(address for _, address in sorted(order) if _is_address(address) and "%" not in address)
        name.failed = False
    name.until = monotonic() + _KNOWN_SECONDS


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
