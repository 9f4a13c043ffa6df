"""The state of the cluster as one gateway sees it: what ``/status`` answers, and ``/events`` tells each second."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.fleet import Fleet
from gateway.known_worker import Worker
from shoal.publication import order
from shoal.version import VERSION


def document(name: str, fleet: Fleet) -> dict[str, Any]:
    """Every worker that it uses with its state and the load of its models, how many it leaves to other gateways, what
    is published of each model, and what this gateway refused of late."""
    return {
        "gateway": name,
        "version": VERSION,
        "elsewhere": len(fleet.elsewhere),
        "workers": [_worker(worker) for worker in sorted(fleet, key=lambda w: w.member.name)],
        "models": {
            publication.model: {
                "versions": sorted(publication.versions, key=order),
                "labels": publication.labels,
                "traffic": publication.traffic,
            }
            for publication in sorted(fleet.publications, key=lambda p: p.model)
        },
        "refusals_per_second": {model: round(rate, 4) for model, rate in sorted(fleet.refusals.per_second().items())},
    }


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "name": worker.member.name,
        "incarnation": worker.incarnation,
        "state": worker.state,
        "zone": worker.member.zone,
        "version": worker.member.version,
        "public_url": worker.public_url,
        "models": {key: _load(worker, key) for key in (worker.report.models if worker.report else ())},
    }


def _load(worker: Worker, key: str) -> dict[str, Any]:
    """As the worker reports it, and what follows from several reports."""
    load, rate = msgspec.to_builtins(worker.load(key)), worker.rate(key)
    return {
        **load,
        "expected_wait": round(worker.expected_wait(key, "interactive"), 3),
        "images_per_second": round(rate.images_per_second, 3),
        "utilisation": round(rate.busy, 4),
        "seconds_per_answer": round(rate.seconds, 4),
    }
