"""What the commands say of publications: tables for people, documents for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shoal.publication import Publication, highest, order
from shoal.wire import model_key
from worker.repository.editing import what_gets_traffic
from worker.repository.publishing import Change

__all__ = ["changed", "described", "next_steps", "overview", "table"]


def table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    whole = [titles, *rows]
    widths = [max(len(row[column]) for row in whole) for column in range(len(titles))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in whole)
    return "".join(f"{line}\n" for line in lines)


def overview(publications: Mapping[str, Publication]) -> str:
    if not publications:
        return "nothing is published\n"
    rows = (
        (
            name,
            ", ".join(sorted(p.versions, key=order)),
            _labels(p),
            _traffic(p),
            ", ".join(p.placement) or "everywhere",
        )
        for name, p in publications.items()
    )
    return table(("MODEL", "VERSIONS", "LABELS", "TRAFFIC", "WORKERS"), rows)


def described(publication: Publication, workers: Iterable[Mapping[str, Any]] | None = None) -> str:
    """A model's versions; with the gateway's ``workers``, also how they fare there."""
    labels = {v: ", ".join(n for n, of in publication.labels.items() if of == v) for v in publication.versions}
    text = f"{publication.model}: traffic to {_traffic(publication)}; "
    text += f"loaded by {', '.join(publication.placement) or 'every worker'}\n"
    text += table(
        ("VERSION", "LABELS", "PUBLISHED (UTC)", "DIGEST", "SOURCE"),
        (
            (v, labels[v] or "-", _date(publication.versions[v].at), p.digest[:16], p.source)
            for v, p in sorted(publication.versions.items(), key=lambda item: order(item[0]))
        ),
    )
    if workers is None:
        return text
    keys = [model_key(publication.model, version) for version in sorted(publication.versions, key=order)]
    rows = [
        (worker["name"], key, state["status"], state.get("reason", ""))
        for worker in workers
        for key, state in sorted(worker["models"].items())
        if key in keys or key.startswith(f"{publication.model}@")
    ]
    return text + "\n" + table(("WORKER", "VERSION", "STATUS", "REASON"), rows)


def next_steps(version: str, change: Change) -> str:
    """What happens to a version that was just added, in sentences."""
    after = change.after
    if after is None:
        return ""
    others = [v for v in what_gets_traffic(after) if v != version]
    lines = [f"{after.model}@{version} is published: {after.versions[version].source}"]
    if version not in what_gets_traffic(after):
        kept = " and ".join(others)
        lines.append(f"traffic stays with version {kept}: 'shoal models traffic {after.model} {version}=100' moves it")
    elif after.traffic:
        lines.append(f"it gets its share of the traffic: {_traffic(after)}")
    elif change.before and change.before.versions:
        lines.append(f"it takes over from version {highest(change.before.versions)} on each worker where it is ready")
    if after.placement:
        lines.append(f"only these workers or zones load it: {', '.join(after.placement)}")
    if change.before and (gone := sorted(change.before.versions.keys() - after.versions.keys(), key=order)):
        lines.append(f"no longer served: {', '.join(gone)}")
    return "".join(f"{line}\n" for line in lines)


def changed(change: Change) -> str:
    if change.after is None:
        return f"{change.before.model} is no longer served\n" if change.before else "nothing is published\n"
    return overview({change.after.model: change.after})


def document(publication: Publication) -> dict[str, Any]:
    """A publication with everything, for ``--json``."""
    plain: dict[str, Any] = {"versions": {}, "labels": {}, "traffic": {}, "placement": []}
    plain |= msgspec.to_builtins(publication)
    return plain


def _labels(publication: Publication) -> str:
    return ", ".join(f"{name}={version}" for name, version in sorted(publication.labels.items())) or "-"


def _traffic(publication: Publication) -> str:
    if not publication.traffic:
        return "the newest"
    whole = sum(publication.traffic.values())
    return ", ".join(f"{name} {100 * weight / whole:.3g} %" for name, weight in publication.traffic.items())


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) if at else "-"
