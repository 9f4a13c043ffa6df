"""What a gateway says of its cluster: every worker with its state and load, what is published, what was refused."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.fleet import Fleet
from gateway.known_worker import Worker
from gateway.rates import Refusals
from shoal.publication import order
from shoal.version import VERSION


def document(gateway: str, fleet: Fleet, refusals: Refusals) -> dict[str, Any]:
    """The answer to ``GET /status``, JSON-ready."""
    return {
        "gateway": gateway,
        "version": VERSION,
        "workers": [_worker(worker) for worker in sorted(fleet, key=lambda w: w.member.name)],
        "models": {
            publication.model: {
                "versions": sorted(publication.versions, key=order),
                "labels": publication.labels,
                "traffic": publication.traffic,
            }
            for publication in sorted(fleet.publications, key=lambda p: p.model)
        },
        "refusals_per_second": {model: round(rate, 4) for model, rate in sorted(refusals.per_second().items())},
    }


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "name": worker.member.name,
        "incarnation": worker.incarnation,
        "state": worker.state,
        "zone": worker.member.zone,
        "version": worker.member.version,
        "public_url": worker.public_url,
        "models": {key: _load(worker, key) for key in worker.report.models} if worker.report else {},
    }


def _load(worker: Worker, key: str) -> dict[str, Any]:
    """The load of a model version as the worker reports it, and what follows from several reports."""
    rate = worker.rate(key)
    return {
        **msgspec.to_builtins(worker.load(key)),
        "images_per_second": round(rate.images_per_second, 3),
        "utilisation": round(rate.busy, 4),
        "expected_wait": round(worker.expected_wait(key, "interactive"), 4),
    }
