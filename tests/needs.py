"""Skips a test at home when something that it needs is missing, and fails it in CI, where nothing may be."""

from __future__ import annotations

import os

import pytest


def need(condition: object, reason: str) -> None:
    """Go on when ``condition`` holds; else skip, or fail when the environment variable ``CI`` is set."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)
