"""What TLS costs: CPU per image with and without it, in one interleaved run: ``python -m bench.encryption``.

Two clusters of one gateway and one worker with the ``fake`` model stand on this machine; rounds of photos of 100 KB go
to each in turn, by proxy and direct, on connections that are kept, and then each on a connection of its own. CPU is
that of the processes of a cluster; the client's is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from bench import measure, photos
from shoal import AsyncClient, certificates
from shoal.certificates import Wanted
from shoal.client import Mode
from shoal.launcher import Plan, Running, cluster

_MODES: tuple[Mode, ...] = ("proxy", "direct")
_AT_ONCE = 8
_HOST = "node:gateway+worker,127.0.0.1"


def _settings(folder: Path) -> dict[str, str]:
    certificates.issue(folder, Wanted.parse(_HOST))
    certificate, key = str(folder / "node.pem"), str(folder / "node.key")
    internal = {"internal-certificate": certificate, "internal-key": key, "internal-ca": str(folder / "ca.pem")}
    return {"certificate": certificate, "certificate-key": key, **internal}


def _plan(settings: dict[str, str]) -> Plan:
    return Plan(workers=1, models=("fake",), gateway_settings=settings, worker_settings=settings)


def _cpu(running: Running) -> float:
    """Seconds so far, of all processes of the cluster."""
    return measure.cpu_seconds([pid for pids in running.pids.values() for pid in pids])


async def _round(running: Running, ca: Path | None, mode: Mode, images: list[bytes], *, kept: bool) -> float:
    """CPU seconds for the images."""
    waiting = iter(images)

    def client() -> AsyncClient:
        return AsyncClient(running.gateways[0], api_key=running.api_key, mode=mode, ca=ca, timeout=60)

    async def work(shared: AsyncClient) -> None:
        for image in waiting:
            if kept:
                await shared.predict(image)
            else:
                async with client() as own:
                    await own.predict(image)

    async with client() as shared:
        before = _cpu(running)
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work(shared))
        return _cpu(running) - before


async def _measured(rounds: int, count: int) -> Iterator[str]:
    jpegs = photos.make(8)
    found: dict[tuple[Mode, bool, bool], list[float]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        plain = await stack.enter_async_context(cluster(_plan({})))
        encrypted = await stack.enter_async_context(cluster(_plan(_settings(folder))))
        serial = 0
        for number in range(-1, rounds):  # the first one warms up
            for mode in _MODES:
                for kept in (True, False):
                    for running, ca in ((plain, None), (encrypted, folder / "ca.pem")):
                        images = [photos.distinct(jpegs[n % len(jpegs)], serial + n) for n in range(count)]
                        serial += count
                        seconds = await _round(running, ca, mode, images, kept=kept)
                        if number >= 0:
                            found.setdefault((mode, kept, ca is not None), []).append(1000 * seconds / count)
    return _rows(found)


def _rows(found: dict[tuple[Mode, bool, bool], list[float]]) -> Iterator[str]:
    yield "| way | connections | CPU ms per image | with TLS | ratio, lowest to highest |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for mode in _MODES:
        for kept in (True, False):
            plain, encrypted = found[mode, kept, False], found[mode, kept, True]
            ratios = [there / here for here, there in zip(plain, encrypted, strict=True)]
            figures = f"{statistics.median(plain):.2f} | {statistics.median(encrypted):.2f}"
            spread = f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
            yield f"| {mode} | {'kept' if kept else 'one for each image'} | {figures} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=400, help="in each round, for each cell")
    options = parser.parse_args()
    for line in asyncio.run(_measured(options.rounds, options.images)):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
