"""Which model versions a node is to serve: what discovery's publications say, as far as they concern this node."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from shoal.publication import Publication, decode, order
from shoal.wire import model_key

log = logging.getLogger(__name__)


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


class Publications:
    """The publications as this node knows them; one that becomes unreadable stays as it was."""

    def __init__(self, worker: str, zone: str) -> None:
        self._worker = worker
        self._zone = zone
        self._known: dict[str, Publication] = {}

    def __repr__(self) -> str:
        return f"<Publications of {', '.join(p.model for p in self._known.values())}>"

    def take(self, values: Mapping[str, str]) -> None:
        """The texts of all publications, by their keys."""
        known = {}
        for key, text in values.items():
            try:
                known[key] = decode(text)
            except ValueError as error:
                log.error("not a publication", extra={"key": key, "error": str(error)})
                if key in self._known:
                    known[key] = self._known[key]
        self._known = known

    @property
    def desired(self) -> dict[str, Desired]:
        """What this node is to serve, by ``model@version``."""
        versions = [
            Desired(publication.model, version, published.source, published.digest)
            for publication in self._known.values()
            if placed(publication.placement, self._worker, self._zone)
            for version, published in publication.versions.items()
        ]
        return {desired.key: desired for desired in versions}


def placed(placement: Collection[str], worker: str, zone: str) -> bool:
    """Whether a model with that placement is for this worker."""
    return not placement or any(fnmatchcase(worker, p) or fnmatchcase(zone, p) for p in placement)


def may_go(key: str, desired: Mapping[str, Desired], ready: Collection[str]) -> bool:
    """Whether a version that is not desired any more may go: never before another of its model is ready here.

    With none of its model desired, it goes at once.
    """
    model = key.rpartition("@")[0]
    others = [wanted.key for wanted in desired.values() if wanted.model == model]
    return not others or any(other in ready for other in others)


def oldest_first(keys: Collection[str]) -> list[str]:
    """Keys by model, and by version within it."""
    return sorted(keys, key=lambda key: (key.rpartition("@")[0], order(key.rpartition("@")[2])))
