"""The repository: a folder ``MODEL/VERSION/`` for each prepared version."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from shoal.publication import highest
from worker.models import manifest
from worker.models.staging import NotPrepared

__all__ = ["Repository", "name_of"]

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile("[1-9][0-9]{0,17}")


class Repository:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def __repr__(self) -> str:
        return f"<Repository {self._folder}>"

    def version_in(self, source: Path) -> tuple[str, str] | None:
        """The model and the version whose folder here ``source`` is, if it is one."""
        model, version = source.absolute().parent, source.name
        inside = model.parent.resolve() == self._folder.resolve()
        return (model.name, version) if inside and _VERSION.fullmatch(version) else None

    def model(self, name: str) -> Path:
        return self._folder / name

    def versions(self, name: str) -> list[str]:
        folder = self.model(name)
        found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return [version for version in found if _VERSION.fullmatch(version)]

    def next_version(self, name: str, published: Collection[str]) -> str:
        """The number after the highest that lies here or is published."""
        taken = [version for version in {*self.versions(name), *published} if version.isdigit()]
        return str(int(highest(taken)) + 1) if taken else "1"


def name_of(source: Path, document: Callable[[Path], dict[str, object]]) -> str:
    """What a model is called when nobody says: as its manifest, else its folder or its file.

    Raises ``NotPrepared`` when that is no model's name.
    """
    if (source / manifest.FILE).is_file():
        named = document(source).get("model")
        folder = source.absolute()
        name = str(named) if named else (folder.parent if _VERSION.fullmatch(folder.name) else folder).name
    else:
        name = Path(source.name.partition(".py:")[0]).stem if ".py:" in source.name else source.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") if not _NAME.fullmatch(name) else name
    if not _NAME.fullmatch(name):
        raise NotPrepared([f"{source} gives the model no name: give it one with --name"])
    return name
