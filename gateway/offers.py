"""Which workers offer which versions of a model: an index of what they report, so that no request has to read it all.

It holds until a worker reports another offer, comes or goes, which is seldom; loads and states are not in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gateway.known_worker import Worker
from gateway.versions import pick
from shoal.publication import Publication
from shoal.wire import Status

TIERS: Mapping[Status, int] = {"ready": 0, "stalled": 1, "restarting": 1}
"""Workers that are ready for a version go before those that will be."""

_Versions = Mapping[Worker, Collection[str]]
_Picked = tuple[Publication | None, list[tuple[Worker, str]]]


class Offers:
    """The offers of some workers, at one time."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self.reported: dict[str, None] = {}
        """Every model version that is reported, in whatever status."""
        self.caching: set[str] = set()
        """The models of which a worker remembers answers."""
        self._versions: dict[str, tuple[dict[Worker, list[str]], ...]] = {}
        self._picked: dict[tuple[str, str | None], _Picked] = {}
        for worker in workers:
            for key, status, caches in worker.offer:
                self._add(worker, key, status, caches)

    def __repr__(self) -> str:
        return f"<Offers of {', '.join(self.reported) or 'nothing'}>"

    def _add(self, worker: Worker, key: str, status: Status, caches: bool) -> None:
        model, _, version = key.rpartition("@")
        self.reported[key] = None
        if caches:
            self.caching.add(model)
        if status in TIERS:
            tiers = self._versions.setdefault(model, tuple({} for _ in {*TIERS.values()}))
            tiers[TIERS[status]].setdefault(worker, []).append(version)

    def tiers(self, model: str) -> tuple[_Versions, ...]:
        """Of each tier, the versions that each worker offers."""
        return self._versions.get(model, ())

    def ready(
        self, model: str, version: str | None, published: Publication | None, key: str
    ) -> list[tuple[Worker, str]]:
        """The workers of the first tier with the version that each would serve; ``pick`` says which. Remembered."""
        tiers = self.tiers(model)
        if not tiers:
            return []
        if version is None and published and published.traffic:
            version = published.share(key, {v for own in tiers[0].values() for v in own})
            if version is None:
                return []
        known, found = self._picked.get((model, version), (None, None))
        if found is None or known is not published:
            found = list(pick(tiers[0], version=version, published=published, key=key).items())
            if found:  # clients may ask for any version, and each name would be kept
                self._picked[model, version] = published, found
        return found
