"""Which model versions a node is to serve: what discovery's publications say, as far as they concern this node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from shoal.publication import Publication, order
from shoal.wire import model_key


@dataclass(frozen=True)
class Desired:
    """A version to serve: where it is fetched from, and the sha256 of its folder."""

    model: str
    version: str
    source: str
    digest: str

    @property
    def key(self) -> str:
        return model_key(self.model, self.version)


def desired(publications: Iterable[Publication], worker: str, zone: str) -> dict[str, Desired]:
    """What a worker is to serve, by ``model@version``."""
    versions = [
        Desired(publication.model, version, published.source, published.digest)
        for publication in publications
        if placed(publication.placement, worker, zone)
        for version, published in publication.versions.items()
    ]
    return {version.key: version for version in versions}


def placed(placement: Collection[str], worker: str, zone: str) -> bool:
    """Whether a model with that placement is for this worker."""
    return not placement or any(fnmatchcase(worker, p) or fnmatchcase(zone, p) for p in placement)


def may_go(key: str, wanted: Mapping[str, Desired], ready: Collection[str]) -> bool:
    """Whether a version that is not desired any more may go: never before another of its model is ready here.

    With none of its model desired, it goes at once.
    """
    model = key.rpartition("@")[0]
    others = [version.key for version in wanted.values() if version.model == model]
    return not others or any(other in ready for other in others)


def oldest_first(keys: Collection[str]) -> list[str]:
    """Keys by model, and by version within it."""
    return sorted(keys, key=lambda key: (key.rpartition("@")[0], order(key.rpartition("@")[2])))
