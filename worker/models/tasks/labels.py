"""The names of a model's classes: read from its manifest or a file beside it, renamed, and found again by settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["by_class", "read", "renamed"]


def read(labels: str | Sequence[str], folder: Path) -> tuple[str, ...]:
    """The manifest's list, or the lines of the text file in the version's folder that it names.

    An empty line is a class without a name; empty lines at the end are none. Raises ``ValueError`` for a file that is
    outside the folder or cannot be read.
    """
    if not isinstance(labels, str):
        return tuple(labels)
    if not labels:
        return ()
    path = (folder / labels).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"labels: {labels!r} is outside the version's folder")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"labels: {labels}: {error}") from error
    return tuple(line.strip() for line in text.rstrip().splitlines())


def renamed(labels: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """The labels with their new names. Keys are as in ``by_class``. Raises ``ValueError``."""
    changed = list(labels)
    for key, name in names.items():
        for index in _classes(labels, key, "rename"):
            changed[index] = name
    return tuple(changed)


def by_class(labels: Sequence[str], values: Mapping[str, float], default: float, *, setting: str) -> tuple[float, ...]:
    """A value for each class. A key is a label (and means every class of that name), or the number of a class.

    Raises ``ValueError`` for one that is neither.
    """
    found = [default] * len(labels)
    for key, value in values.items():
        for index in _classes(labels, key, setting):
            found[index] = value
    return tuple(found)


def _classes(labels: Sequence[str], key: str, setting: str) -> list[int]:
    named = [index for index, label in enumerate(labels) if label == key]
    if named:
        return named
    if key.isascii() and key.isdigit() and int(key) < len(labels):
        return [int(key)]
    raise ValueError(f"{setting}: there is no class {key!r}")
