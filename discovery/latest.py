"""The current directory of one role and those who wait for the next: the part of a watch that backends share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from discovery.backend import DiscoveryUnavailable
from discovery.background import Reachability
from discovery.member import Directory, Member, Role


class Latest:
    """A ``Watch``, as its users see it. The first snapshot has index 1."""

    def __init__(self, role: Role) -> None:
        self._directory = Directory(role)
        self._next = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Latest {self._directory!r}>"

    @property
    def directory(self) -> Directory:
        return self._directory

    def publish(self, members: Iterable[Member]) -> None:
        """Swap the directory, unless these are the members that it has."""
        ordered = tuple(sorted(members, key=lambda member: (member.name, member.incarnation)))
        last = self._directory
        if last.index == 0 or ordered != last.members:
            self._directory = Directory(last.role, ordered, last.index + 1)
            self._next.set()
            self._next = asyncio.Event()

    async def changed(self, index: int) -> Directory:
        while self._directory.index <= index:
            await self._next.wait()
        return self._directory

    async def first(self, timeout: float | None, reachability: Reachability) -> None:
        """Wait for the first snapshot. Raises ``DiscoveryUnavailable`` after ``timeout`` seconds, if any."""
        try:
            async with asyncio.timeout(timeout):
                await self.changed(0)
        except TimeoutError:
            reason = reachability.error or "no answer"
            raise DiscoveryUnavailable(
                f"no snapshot of the {self._directory.role}s within {timeout:g} s: {reason}"
            ) from reachability.error
