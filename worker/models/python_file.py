"""Loads what a version's folder brings as Python: a model's class, the functions of its hooks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["named"]


def named(folder: Path, reference: str) -> Any:
    """The class or function ``file.py:name`` of a folder.

    The file is executed once, as a module of a package that is the folder, so it may import its neighbours relatively;
    the module path stays as it is. Raises ``ValueError`` when there is no such file or name, when it cannot be called,
    or when the file itself raises.
    """
    file, _, name = reference.partition(":")
    path = (folder / file).resolve()
    if not name.isidentifier() or path.suffix != ".py" or path.parent != folder.resolve():
        raise ValueError(f"{reference!r} is not file.py:name, with a file of the version's folder")
    if not path.is_file():
        raise ValueError(f"there is no file {file}")
    found = getattr(_module(path), name, None)
    if not callable(found):
        raise ValueError(f"{file} has no class or function {name}")
    return found


def _module(path: Path) -> ModuleType:
    package = f"shoal_version_{abs(hash(path.parent)):x}"
    full = f"{package}.{path.stem}"
    if full in sys.modules:
        return sys.modules[full]
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(path.parent)]
    try:
        return importlib.import_module(full)
    except Exception as error:
        raise ValueError(f"{path.name} raises {type(error).__name__}: {error}") from error
