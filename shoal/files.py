"""Writing files that others read while they change, or after the power was gone."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str, *, mode: int) -> None:
    """Replace ``path`` in one step, so that no reader ever sees half of it. Its owner stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if os.geteuid() == 0 and path.exists():
            os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
    temporary.replace(path)


def flush_tree(folder: Path) -> None:
    """Have everything in ``folder`` on the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
