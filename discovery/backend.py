"""The interface that every discovery backend implements, and nothing outside this package knows more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Value:
    """A text under a key. ``index`` changes whenever the text does, and is never 0."""

    text: str
    index: int


class ValuesWatch(Protocol):
    """Following the values whose keys begin alike. Entering its context does not wait.

    A store that was emptied from outside, or replaced by another, takes nothing away: what it held is kept until the
    new one says something of the same key, or until this process ends.
    """

    @property
    def values(self) -> Mapping[str, str] | None:
        """The current texts by their whole keys; the last good ones while discovery is away, None before the first."""

    @property
    def index(self) -> int:
        """Grows with every change that this process saw; 0 before the first snapshot."""

    async def changed(self, index: int) -> Mapping[str, str]:
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

    # Values: small texts (at most 512 KiB) that everyone may follow, such as what is published of a model. A key is
    # made of at most 200 of ``A-Z a-z 0-9 . _ - /``; anything else is a ``ValueError``.

    async def value(self, key: str) -> Value | None:
        """What is under ``key``, now. Raises ``DiscoveryUnavailable``."""

    async def put(self, key: str, text: str, *, index: int) -> bool:
        """Replace the value that has ``index`` (0: there is none yet), as one step.

        False when it is another one by now. Raises ``DiscoveryUnavailable``.
        """

    async def delete(self, key: str, *, index: int) -> bool:
        """Remove the value that has ``index``, if there still is one, as one step.

        False when it is another one by now. Raises ``DiscoveryUnavailable``.
        """

    def watch_values(self, prefix: str) -> AbstractAsyncContextManager[ValuesWatch]:
        """Follow all values whose keys begin with ``prefix``."""
