"""Values as files of one folder: ``models/digits`` is ``models~digits.value``.

A file is written aside and renamed into place. Who replaces or removes one holds an flock on the folder meanwhile, so
that comparing and setting are one step. ``.store`` is a random id that the first one to put a value writes: when it is
another by now, the folder was replaced (``LatestValues``). Watches poll.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from discovery.backend import DiscoveryUnavailable, Value
from discovery.background import Reachability, background, repeat
from discovery.folders import READ, WRITE_NEW, locked, opened
from discovery.values import LARGEST_TEXT, LatestValues, check_key, check_prefix, check_text

POLL = 0.25

log = logging.getLogger(__name__)

_SUFFIX = ".value"
_STORE = ".store"


class FileValues:
    """The values in ``folder``, which the first one to put a value creates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<FileValues {self._folder}>"

    async def value(self, key: str) -> Value | None:
        return await asyncio.to_thread(self._value, check_key(key))

    async def put(self, key: str, text: str, *, index: int) -> bool:
        return await asyncio.to_thread(self._put, check_key(key), check_text(text), index)

    async def delete(self, key: str, *, index: int) -> bool:
        return await asyncio.to_thread(self._delete, check_key(key), index)

    @asynccontextmanager
    async def watch_values(self, prefix: str) -> AsyncIterator[LatestValues]:
        latest, scan = LatestValues(check_prefix(prefix)), _Scan(self._folder, prefix)

        async def poll() -> None:
            latest.settle(*await asyncio.to_thread(scan.read))

        reachability = Reachability(f"following the values in {self._folder}", log)
        async with background(repeat(poll, every=POLL, reachability=reachability), f"values {prefix}"):
            yield latest

    def _value(self, key: str) -> Value | None:
        with _translated(self._folder), suppress(FileNotFoundError), opened(self._folder) as folder:
            return _usable(folder, _file_name(key))
        return None

    def _put(self, key: str, data: bytes, index: int) -> bool:
        name = _file_name(key)
        with _translated(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._folder) as folder:
                if _index(_usable(folder, name)) != index:
                    return False
                if _usable(folder, _STORE) is None:
                    _write(folder, _STORE, uuid.uuid4().hex.encode())
                _write(folder, name, data)
                return True

    def _delete(self, key: str, index: int) -> bool:
        name = _file_name(key)
        with _translated(self._folder), suppress(FileNotFoundError), locked(self._folder) as folder:
            value = _usable(folder, name)
            if value is not None and value.index != index:
                return False
            if value is not None:
                os.unlink(name, dir_fd=folder)
        return True


class _Scan:
    """Reads the values whose keys begin alike. Complains once of each file that is none."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._names: set[str] = set()
        self._strange: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<_Scan {self._prefix} in {self._folder}: {len(self._names)} files>"

    def read(self) -> tuple[str, dict[str, str]]:
        """The id of the store, and its texts by their keys; nothing of a folder that is not there."""
        with suppress(FileNotFoundError), opened(self._folder) as folder:
            store = _usable(folder, _STORE)
            return store.text if store else "", dict(self._read(folder))
        return "", {}

    def _read(self, folder: int) -> Iterator[tuple[str, str]]:
        with os.scandir(folder) as entries:
            listed = {entry.name for entry in entries}
        before, self._names = self._names, set()
        strange, self._strange = self._strange, {}
        for name in sorted(listed | before):  # a listing may miss a file that is replaced meanwhile
            key = _key(name)
            if key is None or not key.startswith(self._prefix):
                continue
            try:
                value = _read(folder, name)
            except (OSError, ValueError) as error:
                self._strange[name] = str(error)
                if strange.get(name) != str(error):
                    log.warning("ignored %r in %s: %s", name, self._folder, error)
                continue
            if value is not None:
                self._names.add(name)
                yield key, value.text


def _file_name(key: str) -> str:
    return key.replace("/", "~") + _SUFFIX


def _key(name: str) -> str | None:
    """The key of the file ``name``; none of a foreign file."""
    with suppress(ValueError):
        if name.endswith(_SUFFIX) and "/" not in (key := name.removesuffix(_SUFFIX)):
            return check_key(key.replace("~", "/"))
    return None


def _read(folder: int, name: str) -> Value | None:
    """What is in a file, none if there is none. Raises ``ValueError`` or ``OSError`` when it cannot be a value."""
    try:
        file = os.open(name, READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_TEXT:
            raise ValueError("it is no regular file, or too large")
        data = os.pread(file, LARGEST_TEXT, 0)
    finally:
        os.close(file)
    written = f"{status.st_mtime_ns} {status.st_ino} ".encode()
    return Value(data.decode(), int.from_bytes(sha256(written + data).digest()[:7]) + 1)


def _usable(folder: int, name: str) -> Value | None:
    """What is in a file; garbage is as good as nothing."""
    with suppress(ValueError, OSError):
        return _read(folder, name)
    return None


def _index(value: Value | None) -> int:
    return value.index if value else 0


def _write(folder: int, name: str, data: bytes) -> None:
    """The caller holds the folder's lock, so that the temporary file is its own."""
    temporary = f".{sha256(name.encode()).hexdigest()[:16]}.tmp"
    with os.fdopen(os.open(temporary, WRITE_NEW, 0o644, dir_fd=folder), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DiscoveryUnavailable(f"values in {folder}: {error}") from error
