"""What a check found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of a report. ``found`` never holds a secret; ``advice`` is empty when all is well."""

    level: Level
    found: str
    advice: str = ""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    """It works, and will not always."""
    return Finding("warning", found, advice)


def problem(found: str, advice: str) -> Finding:
    """It does not work, or not for long."""
    return Finding("problem", found, advice)


def size(count: float) -> str:
    """Bytes as people say them: ``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
