"""Object stores and other file systems behind a URL: the one file that knows fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from worker.repository.archives import BadSource, Budget, safe_name, write
from worker.repository.web import Unreachable, shown

__all__ = ["copy_file", "copy_folder", "is_folder"]


def is_folder(url: str) -> bool:
    """Raises ``Unreachable`` when there is nothing at ``url``, or no library for it."""
    with _opened(url) as (system, path):
        if system.isdir(path):
            return True
        if not system.exists(path):
            raise Unreachable(f"there is nothing at {shown(url)}")
        return False


def copy_file(url: str, into: Path, budget: Budget) -> None:
    """Write one object to the new file ``into``. Raises ``Unreachable``, ``BadSource``."""
    with _opened(url) as (system, path), system.open(path, "rb") as stream:
        write(stream, into.parent, PurePosixPath(into.name), budget)


def copy_folder(url: str, into: Path, budget: Budget) -> None:
    """Write all objects below ``url`` to the folder ``into``. Raises ``Unreachable``, ``BadSource``."""
    with _opened(url) as (system, path):
        found: dict[str, Any] = system.find(path, detail=True)
        budget.expect(sum(int(entry.get("size") or 0) for entry in found.values()))
        for name in sorted(found):
            with system.open(name, "rb") as stream:
                write(stream, into, safe_name(_below(name, path)), budget)


def _below(name: str, path: str) -> str:
    start = path.rstrip("/") + "/"
    if not name.startswith(start):
        raise BadSource(f"{name} is not inside {path}")
    return name.removeprefix(start)


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of ``url`` and the path in it, its errors translated."""
    try:
        system, path = fsspec.core.url_to_fs(url)
        yield system, path
    except (BadSource, Unreachable):
        raise
    except Exception as error:  # each store's own library raises what it likes
        raise Unreachable(f"{shown(url)}: {error or type(error).__name__}") from error
