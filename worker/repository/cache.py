"""The versions that a node has fetched, one folder for each digest: complete, or not there.

What is being fetched lies in a folder ``.fetch-…`` whose maker holds an flock on it, so that what a killed one left is
known. A folder of the cache is named by its digest only when it is whole and on the disk. Who uses one holds a shared
flock on it, so that another worker with the same cache does not remove it. Local file systems only.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from shoal.files import flush, flush_tree, scratch

__all__ = ["Cache", "using"]

_PREFIX = ".fetch-"
_DIGEST = re.compile("[0-9a-f]{64}")


class Cache:
    """Safe for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Cache {self._folder}>"

    def find(self, digest: str) -> Path | None:
        """The complete folder with that digest. It counts as used now. Raises ``ValueError`` for no digest."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a sha256 in hexadecimal")
        folder = self._folder / digest
        try:
            os.utime(folder)
        except FileNotFoundError:
            return None
        return folder

    def scratch(self) -> AbstractContextManager[Path]:
        """An empty folder on the cache's file system, which is removed on leaving, or by the next one."""
        return scratch(self._folder, _PREFIX)

    def put(self, fetched: Path, digest: str) -> Path:
        """Move a whole folder into the cache; another process may have been faster with the same."""
        flush_tree(fetched)
        target = self._folder / digest
        try:
            fetched.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        os.utime(target)
        flush(self._folder)
        return target

    def shrink(self, most_bytes: int, keep: Collection[str]) -> None:
        """Remove what was not used for longest until no more than ``most_bytes`` are left, but nothing in ``keep``."""
        folders = [folder for folder in self._folder.glob("*") if _DIGEST.fullmatch(folder.name)]
        sizes = {folder: _size(folder) for folder in sorted(folders, key=_last_use)}
        total = sum(sizes.values())
        for folder, size in sizes.items():
            if total <= most_bytes:
                return
            if folder.name not in keep and self._remove(folder):
                total -= size

    def _remove(self, folder: Path) -> bool:
        """Under another name first, so that its own never stands for half a folder. False when it is used."""
        with suppress(FileNotFoundError), self.scratch() as scratch:
            try:
                with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    folder.rename(scratch / folder.name)
            except BlockingIOError:
                return False
        return True


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Nobody removes this folder from the cache meanwhile to make room."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
