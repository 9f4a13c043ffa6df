"""The text of a configuration is lines, and a block of lines stands indented in braces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["Lines", "block"]

Lines = Iterator[str]


def block(head: str, lines: Iterable[str]) -> Lines:
    yield f"{head} {{"
    yield from (f"    {line}" for line in lines)
    yield "}"
