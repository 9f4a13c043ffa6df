"""Pictures by URL: only from the hosts that the settings name, and only at addresses that everybody may reach.

A name is resolved once, every address that it has is checked, and the connection goes to one of those: a second
resolution, which could say something else, does not happen. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shoal.errors import (
    BodyTooLarge,
    EmptyBody,
    FetchFailed,
    FetchTimeout,
    InvalidUrl,
    UrlDisabled,
    UrlNotAllowed,
)
from worker.together import together

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[str]]]

_LONGEST_URL = 4096
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is given out (RFC 4291, 2.4)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052


async def resolve(host: str) -> list[str]:
    """The addresses of ``host``, as this machine knows them. Raises ``OSError``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Fetcher:
    """Fetches pictures for one front. Construct with ``Fetcher.open``."""

    def __init__(self, session: ClientSession, addresses: Addresses, hosts: Sequence[str], timeout: float, most: int):
        self._session = session
        self._addresses = addresses
        self._hosts = hosts
        self._timeout = timeout
        self._turns = asyncio.Semaphore(most)

    def __repr__(self) -> str:
        return f"<Fetcher from {', '.join(self._hosts) or 'nowhere'}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, hosts: Sequence[str], networks: Sequence[str], timeout: float, most: int, resolve: Resolve = resolve
    ) -> AsyncIterator[Fetcher]:
        """At most ``most`` fetches at once, of ``timeout`` seconds each, from ``hosts`` at public addresses or in
        ``networks``."""
        addresses = Addresses([ip_network(network) for network in networks], resolve)
        async with guarded(addresses, {"Accept-Encoding": "identity", "Accept": "image/*"}) as session:
            yield cls(session, addresses, hosts, timeout, most)

    def check_enabled(self) -> None:
        """Raises ``UrlDisabled`` when there is no host to fetch from."""
        if not self._hosts:
            raise UrlDisabled

    async def fetch_all(self, urls: Sequence[str], limit: int, seconds: float) -> list[bytes]:
        """The pictures, of at most ``limit`` bytes together, within ``seconds``.

        Raises ``InvalidUrl``, ``UrlNotAllowed``, ``FetchFailed``, ``FetchTimeout``, ``BodyTooLarge`` or ``EmptyBody``.
        """
        self.check_enabled()
        checked = [checked_url(url, self._hosts) for url in urls]
        budget = _Budget(limit)
        timeout = min(seconds, self._timeout)
        try:
            async with asyncio.timeout(timeout):
                return await together([self._fetch(url, budget) for url in checked])
        except TimeoutError:
            raise FetchTimeout(f"The picture did not arrive within {timeout:g} s.") from None

    async def _fetch(self, url: URL, budget: _Budget) -> bytes:
        self._addresses.check_literal(url)
        async with self._turns:
            try:
                async with self._session.get(url, allow_redirects=False) as response:
                    return await _read(response, budget)
            except (ClientError, OSError, ValueError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise FetchFailed from error


@asynccontextmanager
async def guarded(addresses: Addresses, headers: Mapping[str, str]) -> AsyncIterator[ClientSession]:
    """Connections to what ``addresses`` lets through, to be asked about each URL first (``check_literal``)."""
    connector = TCPConnector(resolver=addresses, use_dns_cache=False, force_close=True, limit=0)
    async with ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": "shoal", **headers},
        timeout=ClientTimeout(total=None),
    ) as session:
        yield session


def checked_url(text: str, hosts: Sequence[str]) -> URL:
    """A URL of one of ``hosts``. Raises ``InvalidUrl`` or ``UrlNotAllowed``."""
    try:
        if len(text) > _LONGEST_URL or not text.isprintable() or " " in text or "\\" in text:
            raise InvalidUrl
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise InvalidUrl from error
    if url.scheme not in _DEFAULT_PORTS or not host or port is None or "%" in host:
        raise InvalidUrl
    if url.raw_user is not None or url.raw_password is not None:
        raise InvalidUrl("A URL with a user's name or a password is not accepted.")
    default = _DEFAULT_PORTS[url.scheme]
    if not any(_matches(host.lower(), port, default, pattern) for pattern in hosts):
        raise UrlNotAllowed
    return url.with_fragment(None)


class Addresses(AbstractResolver):
    """Resolves names for the connector, and lets nothing through that is not for everybody."""

    def __init__(self, networks: Sequence[Network], resolve: Resolve) -> None:
        self._networks = networks
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises ``UrlNotAllowed`` when any of its addresses is not allowed, and ``OSError`` when there are none."""
        found = list(dict.fromkeys(await self._resolve(host)))
        if not found:
            raise OSError(f"{host} has no address")
        self.check(found)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    def check(self, addresses: Sequence[str]) -> None:
        """Raises ``UrlNotAllowed`` for one that is neither public nor in a network that the settings name."""
        for text in addresses:
            address = _literal(text)
            if address is None or not is_allowed(address, self._networks):
                raise UrlNotAllowed("The host has an address that is not allowed.")

    def check_literal(self, url: URL) -> None:
        """Raises ``UrlNotAllowed``, for an address as the host: the connector would not ask its resolver about it."""
        if url.raw_host is not None and _literal(url.raw_host) is not None:
            self.check([url.raw_host])

    async def close(self) -> None:
        """Nothing to do."""


class _Budget:
    """The bytes that the pictures of one request may still have."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise BodyTooLarge(f"The pictures have more than {self._limit} bytes.")

    def check(self, size: int) -> None:
        if size > self._left:
            raise BodyTooLarge(f"The picture has {size} bytes; {self._limit} are accepted here.")


async def _read(response: ClientResponse, budget: _Budget) -> bytes:
    if response.status != 200:
        raise FetchFailed(f"The picture's host answered {response.status}.")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchFailed("The picture's host sent it with a Content-Encoding.")
    budget.check(response.content_length or 0)
    parts = []
    async for part in response.content.iter_any():
        budget.take(len(part))
        parts.append(part)
    if not any(parts):
        raise EmptyBody("The picture's host sent nothing.")
    return b"".join(parts)


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether a picture may come from there: a public address, or one in ``networks``.

    What an IPv6 address carries inside (IPv4-mapped, 6to4, Teredo, NAT64) must be allowed as well.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_allowed(address.ipv4_mapped, networks)
        if address.scope_id is not None or not all(is_allowed(inner, networks) for inner in _inside(address)):
            return False
    if any(address in network for network in networks if network.version == address.version):
        return True
    if isinstance(address, IPv6Address) and address not in _UNICAST and address not in _NAT64:
        return False
    return address.is_global and not address.is_multicast


def _inside(address: IPv6Address) -> list[IPv4Address]:
    found = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(IPv4Address(address.packed[12:]))
    return [inner for inner in found if inner is not None]


def _literal(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _matches(host: str, port: int, default: int, pattern: str) -> bool:
    name, _, listed = pattern.partition(":")
    if port != (int(listed) if listed else default):
        return False
    return host.endswith(name[1:]) and len(host) >= len(name) if name.startswith("*.") else host == name
