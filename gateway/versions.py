"""Which version of a model a request is for: by number, by label, by the split, or the highest of each worker.

While a new version comes up, some workers have it and some do not yet; without a split each worker serves the highest
that it has, so that the load is always on all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from shoal import publication
from shoal.publication import Publication

W = TypeVar("W")


def pick(
    offers: Mapping[W, Collection[str]], *, version: str | None, published: Publication | None, key: str
) -> dict[W, str]:
    """The version that each worker would serve, of those that it offers; none of a worker that has no right one.

    A ``version`` that was asked for may be one that is not published any more. With a split all workers serve one
    version, that of ``key``, and none when no version of the split is ready: it may have been made to leave another.
    Without a split each serves the highest that it has, of those that are published if it has any: what is published
    and fails to load replaces nothing.
    """
    if version is not None:
        return {worker: version for worker, own in offers.items() if version in own}
    if published is None:
        return {worker: publication.highest(own) for worker, own in offers.items() if own}
    if published.traffic:
        share = published.share(key, {v for own in offers.values() for v in own})
        return {worker: share for worker, own in offers.items() if share is not None and share in own}
    offered = {worker: [v for v in own if v in published.versions] or own for worker, own in offers.items()}
    return {worker: publication.highest(own) for worker, own in offered.items() if own}
