"""The interface that every discovery backend implements, and nothing outside this package knows more."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from discovery.member import Directory, Member, Role


class DiscoveryUnavailable(Exception):
    """Discovery cannot be reached, or gives no usable answer."""


class DiscoveryRefused(DiscoveryUnavailable):
    """Discovery answers, and refuses us: the token is wrong or may not do this."""


class Membership(Protocol):
    """Being registered. Leaving its context deregisters, at once and for every watcher."""

    async def update(self, member: Member) -> None:
        """Replace what is registered (the same name and incarnation, other readiness)."""


class Watch(Protocol):
    """Following the ready members of one role. Entering its context waits for the first snapshot."""

    @property
    def directory(self) -> Directory:
        """The current snapshot. The last good one is kept while discovery cannot be reached."""

    async def changed(self, index: int) -> Directory:
        """Wait for a snapshot whose index is greater than ``index``."""


class Discovery(Protocol):
    """One backend. Both of its verbs are context managers whose loops survive the backend's absence."""

    def membership(self, member: Member) -> AbstractAsyncContextManager[Membership]:
        """Register ``member`` and keep it registered: a reconcile loop puts it back whenever it is missing.

        Entering does not fail when the backend is away; the loop registers as soon as it is back.
        """

    def watch(self, role: Role) -> AbstractAsyncContextManager[Watch]:
        """Follow the members of ``role``.

        Entering raises ``DiscoveryUnavailable`` when there is no first snapshot within the timeout that was
        given to ``discovery.connect``; without one it waits.
        """
