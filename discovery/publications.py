"""What is published of every model, as gateways and supervisors follow it among discovery's values."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress

from discovery.backend import ValuesWatch
from shoal import publication
from shoal.publication import PREFIX, Publication
from shoal.service import background

log = logging.getLogger(__name__)

_FIRST_SECONDS = 5.0


class Publications:
    """The last good publication of every model. Construct with ``Publications.follow``."""

    def __init__(self) -> None:
        self._known: dict[str, Publication] = {}
        self._ever: set[str] = set()
        self._malformed: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Publications of {len(self._known)} models>"

    def __iter__(self) -> Iterator[Publication]:
        return iter(self._known.values())

    @classmethod
    @asynccontextmanager
    async def follow(cls, watch: ValuesWatch) -> AsyncIterator[Publications]:
        """Follow the values under ``models/``. Entering waits a little for the first ones, and not for ever."""
        publications = cls()
        await first(watch)
        publications.settle(watch.values or {})
        async with background(publications._follow(watch, watch.index)):
            yield publications

    async def _follow(self, watch: ValuesWatch, index: int) -> None:
        while True:
            values = await watch.changed(index)
            index = watch.index
            self.settle(values)
            log.info("publications", extra={"publications": repr(self)})

    def settle(self, values: Mapping[str, str]) -> None:
        """Take a snapshot. Of a model whose text is malformed the last good publication stays."""
        before, self._known = self._known, {}
        complained, self._malformed = self._malformed, {}
        for key, text in sorted(values.items()):
            name = key.removeprefix(PREFIX)
            try:
                self._known[name] = _decode(name, text)
            except ValueError as error:
                self._malformed[name] = text
                if complained.get(name) != text:
                    log.warning("malformed publication ignored", extra={"model": name, "error": str(error)})
                if name in before:
                    self._known[name] = before[name]
        self._ever |= self._known.keys()

    def of(self, model: str) -> Publication | None:
        """The publication of a model, if it has any versions."""
        found = self._known.get(model)
        return found if found and found.versions else None

    def was_published(self, model: str) -> bool:
        """Whether the model has ever been published; another is only in the settings of workers."""
        return model in self._ever


async def first(watch: ValuesWatch) -> None:
    """Wait a little for the first snapshot, and go on without it when discovery is away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_SECONDS):
            await watch.changed(0)
            return
    log.warning("nothing is known of what is published")


def _decode(name: str, text: str) -> Publication:
    found = publication.decode(text)
    if found.model != name:
        raise ValueError(f"it is of the model {found.model!r}")
    return found
