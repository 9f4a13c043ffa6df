"""What backends share of values: what a key and a text may be, and the current values of a watch."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from types import MappingProxyType

LONGEST_KEY = 200
LARGEST_TEXT = 512 * 1024  # Consul takes no more

log = logging.getLogger(__name__)

_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


def check_key(key: str) -> str:
    """Raises ``ValueError`` for what is not a key."""
    if not _KEY.fullmatch(key) or len(key) > LONGEST_KEY or ".." in key or "." in key.split("/"):
        raise ValueError(
            f"a key is up to {LONGEST_KEY} of A-Z a-z 0-9 . _ - /, and no path to elsewhere: {key[:250]!r}"
        )
    return key


def check_prefix(prefix: str) -> str:
    """A prefix is empty, or the start of a key. Raises ``ValueError``."""
    return prefix and check_key(f"{prefix}-")[:-1]


def check_text(text: str) -> bytes:
    """The text as bytes. Raises ``ValueError`` when it is too large, or not text."""
    data = text.encode()
    if len(data) > LARGEST_TEXT:
        raise ValueError(f"a value has at most {LARGEST_TEXT} bytes; this one has {len(data)}")
    return data


class LatestValues:
    """A ``ValuesWatch``, as its users see it.

    A store has an id as soon as anything was put into it. What another store held, which is lost by now, is kept until
    this one says something of the same key, so that an emptied Consul or a removed folder takes nothing away.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._values: Mapping[str, str] | None = None
        self._index = 0
        self._next = asyncio.Event()
        self._store = ""
        self._lost: Mapping[str, str] = {}
        self._emptied = False

    def __repr__(self) -> str:
        return f"<LatestValues {self._prefix}: {len(self._values or ())}, index {self._index}>"

    @property
    def values(self) -> Mapping[str, str] | None:
        return self._values

    @property
    def index(self) -> int:
        return self._index

    def settle(self, store: str, found: Mapping[str, str]) -> None:
        """Take what is in the store of this id (or in one without an id); swap the snapshot if it differs."""
        held = self._values or {}
        if not store and not found:
            if held and not self._emptied:
                log.warning("the store of %r has been emptied: kept the last %d values", self._prefix, len(held))
            self._emptied = True
            self._publish(held)
            return
        self._emptied = False
        if store != self._store:
            self._lost, self._store = held, store
        self._lost = {key: text for key, text in self._lost.items() if key not in found}
        self._publish({**self._lost, **found})

    def _publish(self, values: Mapping[str, str]) -> None:
        if self._values is None or values != self._values:
            self._values = MappingProxyType(dict(values))
            self._index += 1
            self._next.set()
            self._next = asyncio.Event()

    async def changed(self, index: int) -> Mapping[str, str]:
        while self._index <= index:
            await self._next.wait()
        assert self._values is not None
        return self._values
