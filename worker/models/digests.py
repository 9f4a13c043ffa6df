"""Names content: the sha256 of a file, or of all that a folder holds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

__all__ = ["digest_of"]

# What Python leaves behind where it has executed a file.
_LEFT_BEHIND = "__pycache__"


def digest_of(path: Path, *, without: Collection[str] = ()) -> str:
    """The sha256 of a file's bytes, or of a folder: of its sorted relative paths, with the digest of each file.

    ``without`` are relative paths that do not count; nor does ``__pycache__``. Links count as what they lead to.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    for name in files:
        if name not in without and _LEFT_BEHIND not in name.split("/"):
            whole.update(f"{digest_of(path / name)}  {name}\n".encode())
    return whole.hexdigest()
