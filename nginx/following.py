"""nginx follows the fleet: whenever gateways or workers come or go, its configuration is rendered and taken.

The last good one stays while discovery is away or knows no gateway, and when nginx does not understand the new one.

A reload closes the idle connections of clients, and a request that is being sent on one of them at that moment fails at
a client that does not try again. So there are few: what changes waits for more (``pause``), and a gateway that is back
by then was never away. That harms nobody: a worker that nginx does not know is reached by its address, and from a
gateway that has gone nginx turns to the next. A worker that left keeps its place for some minutes, because most of them
are being updated and come back. It is done at once when most of the gateways that nginx knows are gone, or it knows
none yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain
from time import monotonic

import discovery
from discovery import Directory, Role, Watch
from nginx.edge import Address, Edge, UnusableUrl
from nginx.program import NotDone, Program
from nginx.rendering import render
from shoal.names import Names
from shoal.nginx_settings import NginxSettings
from shoal.service import background

__all__ = ["Follower", "addresses"]

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 15.0  # a file that was refused is tried again, and a renewed certificate is noticed

_RESOLVES = (1, 27, 3)  # the first version that follows names of an upstream's servers

_KEPT_SECONDS = 900.0  # the place of a worker that left: no gateway names it meanwhile

Stamps = tuple[tuple[int, int], ...]


class Follower:
    """What is known of the fleet, and what of it nginx has taken. Construct with ``Follower.connect``."""

    def __init__(self, settings: NginxSettings, program: Program) -> None:
        self._settings = settings
        self._program = program
        self._known: dict[Role, tuple[Address, ...]] = {"gateway": (), "worker": ()}
        self._left: dict[Address, float] = {}
        self._taken: tuple[str, Stamps] | None = None
        self._rendered: set[Address] = set()
        self._names = Names()
        self._news = asyncio.Event()
        self.ready = asyncio.Event()
        self.reloads = 0

    def __repr__(self) -> str:
        known = ", ".join(f"{len(members)} {role}s" for role, members in self._known.items())
        return f"<Follower of {known}, {self.reloads} reloads>"

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: NginxSettings, program: Program) -> AsyncIterator[Follower]:
        """Know the fleet, and go on following it. Entering waits for the first snapshots. Raises ``NotDone``."""
        if settings.consul_dns:
            program.require(_RESOLVES, "consul_dns")
        follower = cls(settings, program)
        async with AsyncExitStack() as stack:
            if settings.gateways:
                follower._settle("gateway", addresses(settings.gateways))
            else:
                token = settings.discovery_token.get_secret_value() or None
                backend = await stack.enter_async_context(discovery.connect(settings.discovery, token=token))
                roles: tuple[Role, ...] = ("gateway", "worker")
                watches = [await stack.enter_async_context(backend.watch(role)) for role in roles]
                for watch in watches:
                    follower._take(watch.directory)
                await stack.enter_async_context(background(*(follower._follow(watch) for watch in watches)))
            yield follower

    async def _follow(self, watch: Watch) -> None:
        index = watch.directory.index
        while True:
            directory = await watch.changed(index)
            index = directory.index
            self._take(directory)

    def _take(self, directory: Directory) -> None:
        log.info("directory", extra={"directory": repr(directory)})
        self._settle(directory.role, addresses(member.internal_url for member in directory.members))

    def _settle(self, role: Role, members: tuple[Address, ...]) -> None:
        """An empty list of gateways is believed of nobody: whoever was there last may still be."""
        if role == "gateway" and not members:
            log.warning("no gateway is known any more; the last ones stay")
            return
        self._known[role] = members if role == "gateway" else self._with_those_that_left(members)
        self._news.set()

    def _with_those_that_left(self, workers: tuple[Address, ...]) -> tuple[Address, ...]:
        now = monotonic()
        self._left = {
            address: since
            for address in self._known["worker"]
            if address not in workers and now - (since := self._left.get(address, now)) < _KEPT_SECONDS
        }
        return tuple(sorted({*workers, *self._left}))

    async def edge(self) -> Edge | None:
        """Everything that is known now; None before the first gateway.

        It has addresses alone, without who has none: one name that nginx does not know, and it would refuse the file.
        """
        gateways, workers = await self._addressed("gateway"), await self._addressed("worker")
        if not any(gateways):
            return None
        first = (places[0] for places in workers if places)  # as a gateway names a worker
        return Edge.of(self._settings, self._program.version, chain.from_iterable(gateways), first)

    async def _addressed(self, role: Role) -> list[list[Address]]:
        """The places of each member."""
        members = self._known[role]
        found = await asyncio.gather(*(self._names.addresses(member.host) for member in members))
        return [[replace(member, host=host) for host in hosts] for member, hosts in zip(members, found, strict=True)]

    async def run(self) -> None:
        """Render, test, take and reload, for ever."""
        while True:
            await self.take()
            await self._due()

    async def _due(self) -> None:
        """Wait for a reason to reload, or to look at what the clock alone changes."""
        await self._news_within(_AGAIN_SECONDS)
        await asyncio.sleep(self._settings.settle)
        until = monotonic() + self._settings.pause
        while not self._is_urgent() and (left := until - monotonic()) > 0:
            self._news.clear()
            await self._news_within(left)

    async def _news_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _is_urgent(self) -> bool:
        known = set(self._known["gateway"])
        if not self._rendered:
            return bool(known)
        return len(known & self._rendered) * 2 < len(self._rendered) and bool(known - self._rendered)

    async def take(self) -> bool:
        """Let nginx have what is known now, unless it has. False when there is nothing, or nginx refused it."""
        self._news.clear()
        gateways = set(self._known["gateway"])
        edge = await self.edge()
        if edge is None:
            return False
        text = render(edge)
        stamps = _stamps(self._settings)
        if (text, stamps) == self._taken:
            self._rendered = gateways
            return True
        try:
            await self._program.install(text)
            await self._program.reload()
        except (NotDone, OSError) as error:
            log.error("the configuration before stays", extra={"edge": repr(edge), "error": str(error)})
            return False
        self._taken, self._rendered = (text, stamps), gateways
        self.reloads += 1
        log.info("nginx reloaded", extra={"edge": repr(edge), "file": str(self._settings.file)})
        self.ready.set()
        return True


def addresses(urls: Iterable[str]) -> tuple[Address, ...]:
    """The usable ones, in order; one that is not is foreign text, and left out."""
    found = set()
    for url in urls:
        try:
            found.add(Address.of(url))
        except UnusableUrl as error:
            log.warning("member left out", extra={"error": str(error)})
    return tuple(sorted(found))


def _stamps(settings: NginxSettings) -> Stamps:
    """What changes when a certificate is renewed."""
    paths = (
        *(settings.certificate, settings.certificate_key),
        *(settings.internal_certificate, settings.internal_key, settings.internal_ca),
    )
    found = []
    for path in paths:
        try:
            stat = path.stat() if path else None
        except OSError:
            stat = None
        found.append((stat.st_mtime_ns, stat.st_ino) if stat else (0, 0))
    return tuple(found)
