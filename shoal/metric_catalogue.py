"""The metric catalogue as data, and as the table of docs/observability.md.

python -m shoal.metric_catalogue [PAGE]     (prints it, or puts it between the two marks of a page)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from shoal import metrics

BEGIN = "<!-- python -m shoal.metric_catalogue docs/observability.md -->\n"
END = "<!-- end -->\n"

_ENDS = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True)
class Described:
    """One metric as Prometheus sees it. ``where`` is who exports it: gateway, worker, or both."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    where: str

    def row(self) -> str:
        labels = ", ".join(f"`{label}`" for label in self.labels)
        return f"| `{self.name}` | {self.kind} | {labels} | {self.where} | {self.help} |"


def catalogue() -> list[Described]:
    """Every metric of ours, by name. Not where processes share their counters: they would appear in the files."""
    found: dict[str, Described] = {}
    for where, collectors in (("gateway", _gateway()), ("worker", _worker())):
        for one in _described(where, collectors):
            both = one.name in found and found[one.name].where != where
            found[one.name] = Described(one.name, one.kind, one.labels, one.help, "both" if both else where)
    return [found[name] for name in sorted(found)]


def table() -> str:
    """The catalogue as a table in Markdown."""
    rows = ["| metric | type | labels | from | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*rows, *(one.row() for one in catalogue())]) + "\n"


def _gateway() -> Iterator[Any]:
    yield from _of(metrics.GatewayMetrics(CollectorRegistry()))
    yield from metrics.CertificateExpiry().collect()
    yield from metrics.BuildInfo().collect()


def _worker() -> Iterator[Any]:
    for kind in (metrics.FrontMetrics, metrics.ModelMetrics, metrics.SupervisorMetrics, metrics.CourierMetrics):
        yield from _of(kind(CollectorRegistry()))
    yield from metrics.NodeMetrics().collect()
    yield from metrics.CertificateExpiry().collect()
    yield from metrics.BuildInfo().collect()


def _of(counted: object) -> Iterator[Any]:
    return (value for value in vars(counted).values() if isinstance(value, MetricWrapperBase))


def _described(where: str, collectors: Iterable[Any]) -> Iterator[Described]:
    for collector in collectors:
        for metric in collector.describe() if hasattr(collector, "describe") else [collector]:
            labels = () if metric.type == "info" else tuple(collector._labelnames)
            yield Described(metric.name + _ENDS.get(metric.type, ""), metric.type, labels, metric.documentation, where)


def rewritten(page: str) -> str:
    """The page with the table of now. Raises ``ValueError`` when it has no place for it."""
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return page[:start] + table() + page[end:]


def main() -> None:
    if len(sys.argv) == 1:
        sys.stdout.write(table())
        return
    path = Path(sys.argv[1])
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
