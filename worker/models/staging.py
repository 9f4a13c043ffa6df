"""Copies what belongs to a version into a folder of its own, and nothing else."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from worker.models import golden, manifest
from worker.models.inference import LABELS

__all__ = ["NotPrepared", "copy_artefact", "copy_folder", "document_of", "missing_files", "remove_leftovers"]

_LEFT_BEHIND = ("__pycache__",)


class NotPrepared(ValueError):
    """All that keeps a model from being published, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


def copy_folder(source: Path, stage: Path, *, with_golden: bool) -> None:
    """Copy the files of a version's folder: what its links lead to inside it, and nothing hidden.

    Raises ``NotPrepared`` with every link that leads out.
    """
    problems = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if any(part.startswith(".") or part in _LEFT_BEHIND for part in name.parts):
            continue
        if name == Path(golden.FILE) and not with_golden:
            continue
        if not path.resolve().is_relative_to(source.resolve()):
            problems.append(f"{name} is a link that leads out of the folder")
        elif path.is_file():
            _copy(path, stage / name)
        elif not path.is_dir() or path.is_symlink():
            problems.append(f"{name} is neither a file nor a folder")
    if problems:
        raise NotPrepared(problems)


def copy_artefact(source: Path, stage: Path, labels: Path | None) -> str:
    """Copy an artefact, with the labels beside it, and return what ``artefact`` of its manifest is."""
    path, colon, name = _python_class(source)
    if not path.exists():
        raise NotPrepared([f"there is no {path}"])
    if path.is_dir():
        copy_folder(path, stage / path.name, with_golden=True)
    else:
        _copy(path, stage / path.name)
    beside = labels or path.parent / LABELS
    if beside.is_file():
        _copy(beside, stage / LABELS)
    elif labels:
        raise NotPrepared([f"there is no {labels}"])
    return path.name + colon + name


def document_of(folder: Path) -> dict[str, Any]:
    """What ``model.toml`` says, not yet checked. Raises ``NotPrepared``."""
    try:
        return tomllib.loads((folder / manifest.FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise NotPrepared([f"{manifest.FILE}: {error}"]) from error


def missing_files(folder: Path, document: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files that a manifest names, a line each."""
    problems = []
    for setting, text in _named_files(document):
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or "\\" in text:
            problems.append(f"{setting}: {text!r} is not a path inside the folder")
        elif not (folder / path).exists():
            problems.append(f"{setting}: there is no {text}")
    return problems


def remove_leftovers(stage: Path) -> None:
    """Take away what executing Python files has left beside them."""
    for name in _LEFT_BEHIND:
        for path in [*stage.rglob(name)]:
            shutil.rmtree(path)


def _named_files(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hooks = document.get("hooks")
    found = {
        "artefact": document.get("artefact"),
        "labels": document.get("labels"),
        **({f"hooks.{name}": value for name, value in hooks.items()} if isinstance(hooks, Mapping) else {}),
    }
    for setting, value in found.items():
        if isinstance(value, str) and value:
            is_python = setting != "labels" and ".py:" in value
            yield setting, value.rpartition(":")[0] if is_python else value


def _python_class(source: Path) -> tuple[Path, str, str]:
    """The file, and ``:Class``, of ``file.py:Class``."""
    file, colon, name = source.name.rpartition(":")
    return (source.with_name(file), colon, name) if file.endswith(".py") else (source, "", "")


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
