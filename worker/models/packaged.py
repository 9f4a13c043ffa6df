"""Finds a data file inside an installed package without importing the package."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["MissingPackage", "packaged_file"]


class MissingPackage(RuntimeError):
    """A package that carries a model's data is not installed, or not completely."""


def packaged_file(package: str, ending: str, install: str) -> Path:
    """The package's first file whose path ends so. ``install`` is what a user would give to pip to have it.

    Raises ``MissingPackage`` with that advice.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackage(f"the package {package} is missing: pip install '{install}'") from error
    for file in files:
        path = Path(str(file.locate()))
        if str(file).endswith(ending) and path.is_file():
            return path
    raise MissingPackage(f"{package} has no file *{ending}: pip install --force-reinstall '{install}'")
