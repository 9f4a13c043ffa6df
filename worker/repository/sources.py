"""Where a version's folder may come from: a path, ``file://``, ``https://``, or any URL that fsspec knows.

A source is a folder with a ``model.toml``, or an archive of one. Over http and https it is an archive.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from worker.models import manifest
from worker.repository import archives, web
from worker.repository.archives import BadSource, Budget, is_archive
from worker.repository.web import Unreachable, shown

__all__ = ["BadSource", "Obtained", "Unreachable", "local_path", "obtain", "shown", "url_of"]

_LOCAL = ("", "file", "local")


@dataclass(frozen=True)
class Obtained:
    """A version's folder, inside the scratch folder. ``archive`` is the sha256 of the archive that it came in."""

    folder: Path
    archive: str = ""


def local_path(source: str) -> Path | None:
    """The path on this machine that a source is; None for one elsewhere."""
    scheme = source.partition("://")[0] if "://" in source else ""
    if scheme not in _LOCAL:
        return None
    if not scheme:
        return Path(source).expanduser().absolute()
    parts = urlsplit(source)
    return Path(unquote(parts.netloc + parts.path)).absolute()


def url_of(path: Path) -> str:
    """The source that a path is on this machine, and on those that share its file system."""
    return path.absolute().as_uri()


def obtain(source: str, scratch: Path, *, most_bytes: int) -> Obtained:
    """Copy, or download and unpack, a version's folder into the empty folder ``scratch``.

    Nothing larger than ``most_bytes`` is written. Raises ``BadSource``, ``Unreachable``, ``OSError``.
    """
    if "::" in source:
        raise BadSource("a source is one URL, not a chain of them")
    folder = scratch / "folder"
    folder.mkdir()
    archive = _archive(source, scratch, folder, Budget(most_bytes))
    digest = ""
    if archive is not None:
        digest = _sha256(archive)
        archives.unpack(archive, folder, Budget(most_bytes))
    return Obtained(_root(folder), digest)


def _archive(source: str, scratch: Path, folder: Path, budget: Budget) -> Path | None:
    """The archive of a source, here; or None when it is a folder, which lies in ``folder`` by now."""
    downloaded = scratch / "archive"
    path = local_path(source)
    if path is not None:
        if path.is_dir():
            _copy_folder(path, folder, budget)
            return None
        if not path.is_file():
            raise Unreachable(f"there is no {path}")
        _see_that_it_is_an_archive(str(path))
        return path
    if urlsplit(source).scheme in ("http", "https"):
        web.download(source, downloaded, budget)
        return downloaded
    from worker.repository import objects

    if objects.is_folder(source):
        objects.copy_folder(source, folder, budget)
        return None
    _see_that_it_is_an_archive(source)
    objects.copy_file(source, downloaded, budget)
    return downloaded


def _see_that_it_is_an_archive(name: str) -> None:
    if not is_archive(name):
        raise BadSource(f"{name} is neither a folder nor an archive ({', '.join(archives.ENDINGS)})")


def _copy_folder(source: Path, into: Path, budget: Budget) -> None:
    for path in sorted(source.rglob("*")):
        name = archives.safe_name(str(path.relative_to(source)))
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            continue
        if not stat.S_ISREG(kind):
            raise BadSource(f"{name} is a link or a device")
        with path.open("rb") as stream:
            archives.write(stream, into, name, budget)


def _root(folder: Path) -> Path:
    """Where the manifest is: at the top, or in the only folder that there is."""
    root = folder
    while not (root / manifest.FILE).is_file():
        inside = list(root.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            raise BadSource(f"it has no {manifest.FILE}")
        root = inside[0]
    return root


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
