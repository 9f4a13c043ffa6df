"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters import Cluster, up
from tests.redis_servers import RedisServer


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two workers with the ``fake`` model, for tests that leave it as they found it."""
    with up("--workers", "2", "--model", "fake", log_level="debug") as running:
        yield running


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The embedded server, for tests to which it makes no difference which one a node has."""
    with RedisServer("valkey", tmp_path_factory.mktemp("valkey")) as running:
        yield running
