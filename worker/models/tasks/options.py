"""Reads what a request has chosen among the options of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.wire import Option

__all__ = ["IOU", "THRESHOLD", "TOP_K", "number"]

TOP_K = Option(1, 1000, whole=True)
THRESHOLD = Option(0, 1)
IOU = Option(0, 1)


def number(chosen: Mapping[str, Any], name: str, option: Option, default: float) -> float:
    """The chosen value, else the default. Raises ``ValueError`` for what the option does not take."""
    value = chosen.get(name, default)
    kinds = (int,) if option.whole else (int, float)
    if type(value) not in kinds or not option.low <= value <= option.high:
        kind = "whole number" if option.whole else "number"
        raise ValueError(f"{name} must be a {kind} from {option.low:g} to {option.high:g}, not {value!r}")
    return float(value)
