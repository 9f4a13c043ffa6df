"""``static://``: a fixed fleet of workers, for those who want no discovery at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from discovery.backend import DiscoveryUnavailable, Value
from discovery.latest import Latest
from discovery.member import Member, Role
from discovery.values import LatestValues, check_key, check_prefix

_KEEPS_NONE = "static:// keeps no values: publish models with file:// or consul:// discovery"


class StaticMembership:
    """Nothing to do: the list of a fixed fleet is in its settings."""

    def __repr__(self) -> str:
        return "<StaticMembership>"

    async def update(self, member: Member) -> None:
        """Has no effect."""


class StaticDiscovery:
    """The workers at ``addresses`` (``host:port``, IPv6 in brackets), for ever.

    ``scheme`` is that of their internal listeners. Their incarnation is ``static-`` and the address, and their models
    and public URLs are unknown here: the gateway learns the real ones from each worker's load report.
    """

    def __init__(self, addresses: Iterable[str], *, scheme: str = "http") -> None:
        self._members = tuple(_member(address, scheme) for address in dict.fromkeys(addresses))

    def __repr__(self) -> str:
        return f"<StaticDiscovery {', '.join(member.name for member in self._members)}>"

    @asynccontextmanager
    async def membership(self, member: Member) -> AsyncIterator[StaticMembership]:
        yield StaticMembership()

    @asynccontextmanager
    async def watch(self, role: Role) -> AsyncIterator[Latest]:
        latest = Latest(role)
        latest.publish(member for member in self._members if member.role == role)
        yield latest

    async def value(self, key: str) -> Value | None:
        check_key(key)
        return None

    async def put(self, key: str, text: str, *, index: int) -> bool:
        raise DiscoveryUnavailable(_KEEPS_NONE)

    async def delete(self, key: str, *, index: int) -> bool:
        raise DiscoveryUnavailable(_KEEPS_NONE)

    @asynccontextmanager
    async def watch_values(self, prefix: str) -> AsyncIterator[LatestValues]:
        latest = LatestValues(check_prefix(prefix))
        latest.settle("", {})
        yield latest


def _member(address: str, scheme: str) -> Member:
    parts = urlsplit(f"//{address}")
    if not parts.hostname or not parts.port or parts.netloc != address or parts.username is not None:
        raise ValueError(f"static:// lists host:port, separated by commas; {address!r} is none")
    return Member("worker", address, incarnation=f"static-{address}", internal_url=f"{scheme}://{address}")
