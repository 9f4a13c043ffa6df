"""Values in Consul's KV store, under the service prefix: ``shoal/models/digits``.

Beside them, ``shoal/~store`` is a random id that the first one to put a value writes. When it has gone or changed,
this is another Consul, or an emptied one, and not a decision to remove anything (``LatestValues``).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from discovery.backend import Value
from discovery.background import Reachability, background, repeat
from discovery.blocking_query import PAUSE, advance
from discovery.values import LatestValues, check_key, check_prefix, check_text

WAIT = 5  # seconds; a Consul that was replaced unnoticed is not asked again sooner, since its indices are smaller

log = logging.getLogger(__name__)

Door = Callable[[], AbstractContextManager[None]]


class ConsulValues:
    """The values of one service prefix. ``client`` is py-consul's, ``door`` translates its errors."""

    def __init__(self, client: Any, door: Door, prefix: str) -> None:
        self._kv, self._door, self._folder = client.kv, door, f"{prefix}/"
        self._strange: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<ConsulValues {self._folder}>"

    @property
    def _marker(self) -> str:
        return f"{self._folder}~store"

    async def value(self, key: str) -> Value | None:
        key = check_key(key)
        with self._door():
            text, index = await self._found(key)
        return None if text is None else Value(text, index)

    async def put(self, key: str, text: str, *, index: int) -> bool:
        key, data = check_key(key), check_text(text)
        with self._door():
            await self._kv.put(self._marker, uuid.uuid4().hex, cas=0)
            if not index:
                there, strange = await self._found(key)
                index = strange if there is None else 0  # what is no text is as good as nothing
            return bool(await self._kv.put(self._folder + key, data, cas=index))

    async def delete(self, key: str, *, index: int) -> bool:
        key = check_key(key)
        with self._door():
            return bool(await self._kv.delete(self._folder + key, cas=index))

    @asynccontextmanager
    async def watch_values(self, prefix: str) -> AsyncIterator[LatestValues]:
        latest, index = LatestValues(check_prefix(prefix)), 0

        async def follow() -> None:
            nonlocal index
            last, index = index, 0  # after an error the next answer is immediate
            with self._door():
                answered, entries = await self._kv.get(self._folder + prefix, index=last, recurse=True, wait=f"{WAIT}s")
                _, marker = await self._kv.get(self._marker)
            index = advance(last, answered)
            store = (marker.get("Value") or b"").decode(errors="replace") if marker else ""
            latest.settle(store, self._texts(entries or []))

        reachability = Reachability(f"following the values of {prefix!r}", log)
        async with background(repeat(follow, every=PAUSE, reachability=reachability), f"values {prefix}"):
            yield latest

    async def _found(self, key: str) -> tuple[str | None, int]:
        """The text under a key, and the index of the entry; an entry that is no text has an index all the same."""
        _, entry = await self._kv.get(self._folder + key)
        return (self._texts([entry]).get(key), int(entry["ModifyIndex"])) if entry else (None, 0)

    def _texts(self, entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        texts, strange = {}, set()
        for entry in entries:
            key = entry["Key"].removeprefix(self._folder)
            try:
                texts[check_key(key)] = (entry.get("Value") or b"").decode()
            except ValueError:
                if entry["Key"] != self._marker:
                    strange.add(key)
        for key in sorted(strange - self._strange):
            log.warning("ignored %r in Consul: it is not one of our keys, or its value is not text", key)
        self._strange |= strange
        return texts
