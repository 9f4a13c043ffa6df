"""What a test reads of ``/metrics``, by the library's own parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]


def samples(text: str) -> Samples:
    """Every sample by its name and labels. Raises ``ValueError`` for what Prometheus would not read."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(session: aiohttp.ClientSession, url: str) -> Samples:
    """What the ``/metrics`` of an internal listener says now."""
    async with session.get(f"{url}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return samples(await response.text())


def by(found: Samples, name: str, label: str, **labels: str) -> Counter[str]:
    """The sums of one metric by a label, of the samples that have all of ``labels``."""
    sums: Counter[str] = Counter()
    for (sample, its), value in found.items():
        if sample == name and labels.items() <= dict(its).items():
            sums[dict(its)[label]] += int(value)
    return sums


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(v for (sample, its), v in found.items() if sample == name and labels.items() <= dict(its).items())


def grown(before: Samples, now: Samples) -> Samples:
    """What has been added since."""
    return {key: value - before.get(key, 0.0) for key, value in now.items()}


def is_cumulative(name: str) -> bool:
    return name.endswith(("_total", "_bucket", "_count", "_sum"))
