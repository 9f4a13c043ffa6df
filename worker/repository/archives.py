"""Unpacks an archive of a version's folder without trusting it: what it names, what it holds, how large it becomes."""

from __future__ import annotations

import errno
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

__all__ = ["ENDINGS", "MOST_FILES", "BadSource", "Budget", "is_archive", "safe_name", "unpack"]

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
MOST_FILES = 10_000
_CHUNK = 1 << 20
_LONGEST_NAME = 1024
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What a damaged or hostile archive makes the two modules raise.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)


class BadSource(ValueError):
    """What lies at a source is not a version's folder, or is not safe to unpack."""


class Budget:
    """What may still be written. Raises ``BadSource`` when it is spent."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes, self._files = most_bytes, 0, 0

    def __repr__(self) -> str:
        return f"<Budget {self._bytes} of {self._most_bytes} bytes, {self._files} files>"

    def file(self) -> None:
        self._files += 1
        if self._files > MOST_FILES:
            raise BadSource(f"it has more than {MOST_FILES} files")

    def bytes(self, count: int) -> None:
        self.expect(count)
        self._bytes += count

    def expect(self, count: int) -> None:
        """See that there is room for so many bytes more."""
        if self._bytes + count > self._most_bytes:
            raise BadSource(f"it has more than {self._most_bytes} bytes")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_archive(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def safe_name(name: str) -> PurePosixPath:
    """The relative path that a foreign name is. Raises ``BadSource`` for one that leads elsewhere."""
    path = PurePosixPath(name)
    odd = "\\" in name or any(ord(c) < 32 for c in name) or not 0 < len(name) <= _LONGEST_NAME
    if odd or path.is_absolute() or ".." in path.parts or path == PurePosixPath():
        raise BadSource(f"{name[:100]!r} is not a path inside a folder")
    return path


def unpack(archive: Path, into: Path, budget: Budget) -> None:
    """Write the files of ``archive`` below the empty folder ``into``: plain files, none twice, within ``budget``.

    Raises ``BadSource``.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, into, budget)
        else:
            _unpack_tar(archive, into, budget)
    except BadSource:
        raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # as of a seek before the beginning
            raise
        raise BadSource(f"the archive is damaged or of an unknown kind: {error}") from error


def write(stream: _Readable, into: Path, name: PurePosixPath, budget: Budget) -> None:
    """Copy a stream to a new file. Raises ``BadSource``."""
    budget.file()
    target = into / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while block := stream.read(_CHUNK):
                budget.bytes(len(block))
                file.write(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadSource(f"two files are named {name}") from error


def _unpack_zip(archive: Path, into: Path, budget: Budget) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            name = safe_name(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise BadSource(f"{name} is a link or a device")
            if member.flag_bits & 1 or member.compress_type not in _PACKED:
                raise BadSource(f"{name} is encrypted, or packed in another way than by deflation")
            if member.is_dir():
                budget.file()
                continue
            with bundle.open(member) as stream:
                write(stream, into, name, budget)


def _unpack_tar(archive: Path, into: Path, budget: Budget) -> None:
    with _opened(archive) as plain, tarfile.open(fileobj=cast(IO[bytes], plain), mode="r:") as bundle:
        for member in _members(bundle, budget):
            name = safe_name(member.name)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise BadSource(f"{name} is a link or a device")
            stream = bundle.extractfile(member)
            if stream is None:
                raise BadSource(f"{name} cannot be read")
            write(stream, into, name, budget)


def _members(bundle: tarfile.TarFile, budget: Budget) -> Iterable[tarfile.TarInfo]:
    for member in bundle:
        if member.isdir():
            budget.file()
            if member.name in (".", "./"):
                continue
        yield member


@contextmanager
def _opened(archive: Path) -> Iterator[_Modest]:
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield _Modest(file)
            return
        with gzip.GzipFile(fileobj=file) as plain:
            yield _Modest(cast(IO[bytes], plain))


class _Modest:
    """A file as ``tarfile`` reads it, which would take a header of any size into memory as a whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise BadSource("a header of the archive is too large")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
