"""Reads and changes publications in discovery, so that two operators never undo one another's change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from discovery import Discovery
from shoal import publication
from shoal.publication import Publication

__all__ = ["Change", "Unreadable", "all_published", "change", "published"]

MOST_BYTES = 512 * 1024


class Unreadable(ValueError):
    """A name is no model's, or what discovery has under it is not a publication, or would be too large for one."""


@dataclass(frozen=True)
class Change:
    """What was there before, and what is there now; None is nothing."""

    before: Publication | None
    after: Publication | None


async def published(discovery: Discovery, model: str) -> Publication | None:
    """What is published of ``model``. Raises ``Unreadable`` (that is no name, too), ``DiscoveryUnavailable``."""
    value = await discovery.value(_key(model))
    return None if value is None else _decoded(model, value.text)


async def change(discovery: Discovery, model: str, edit: Callable[[Publication | None], Publication | None]) -> Change:
    """Replace the publication of ``model`` by what ``edit`` makes of it, in one step; None removes it.

    When another operator was faster, ``edit`` is called again with what is there by then. Raises ``Unreadable``,
    ``DiscoveryUnavailable``, and whatever ``edit`` raises.
    """
    key = _key(model)
    while True:
        value = await discovery.value(key)
        before = None if value is None else _decoded(model, value.text)
        after = edit(before)
        if after == before:
            return Change(before, after)
        index = 0 if value is None else value.index
        if after is None:
            done = await discovery.delete(key, index=index)
        else:
            done = await discovery.put(key, _encoded(after), index=index)
        if done:
            return Change(before, after)


async def all_published(discovery: Discovery) -> dict[str, Publication]:
    """Every publication by its model's name. Raises ``Unreadable``; waits while discovery is away."""
    async with discovery.watch_values(publication.PREFIX) as watch:
        values = await watch.changed(0)
    names = {key.removeprefix(publication.PREFIX): text for key, text in values.items()}
    return {name: _decoded(name, names[name]) for name in sorted(names)}


def _key(model: str) -> str:
    if problems := Publication(model).problems():
        raise Unreadable(problems[0])
    return publication.PREFIX + model


def _decoded(model: str, text: str) -> Publication:
    try:
        found = publication.decode(text)
    except ValueError as error:
        raise Unreadable(f"what is published as {model} is not a publication: {error}") from error
    if found.model != model:
        raise Unreadable(f"what is published as {model} says that it is {found.model}")
    return found


def _encoded(made: Publication) -> str:
    text = publication.encode(made)
    if len(text.encode()) > MOST_BYTES:
        raise Unreadable(f"{made.model} would have more than {MOST_BYTES} bytes published: remove old versions")
    return text
