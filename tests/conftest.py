"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters import Cluster, up


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two workers with the ``fake`` model, for tests that leave it as they found it."""
    with up("--workers", "2", "--model", "fake", log_level="debug") as running:
        yield running
