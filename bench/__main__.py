"""Compare Shoal with its own limit and with other servers, and print a table: ``make bench``."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from bench import table
from bench.peers import CONTESTANTS
from bench.processes import NotMeasured
from bench.records import Report
from bench.rounds import Plan, Run, with_facts
from worker.models.catalogue import Specification

_PACKAGES = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "numpy",
    "pillow",
    "aiohttp",
    "mosec",
    "litserve",
    "flask",
    "redis",
)
T = TypeVar("T")

_REQUESTS, _REQUESTS_OF_FAKE = 96, 960  # what is too short is lost in the 10 ms ticks of CPU time
_MEASURED, _FAILED, _INCOMPLETE = 0, 1, 3  # 2 is argparse's, for a bad command line


def main() -> int:
    arguments = _parser().parse_args()
    plan = Plan(
        model=arguments.model,
        contestants=arguments.peers,
        concurrency=arguments.concurrency,
        rounds=arguments.rounds,
        requests=arguments.requests or (_REQUESTS_OF_FAKE if arguments.model.startswith("fake") else _REQUESTS),
        photos=arguments.photos,
        attempts=arguments.attempts,
        cell_seconds=arguments.cell_seconds,
        total_seconds=arguments.total_seconds,
    )
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # nothing outlives the bench
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", ignore_cleanup_errors=True) as folder:
        try:
            report = asyncio.run(Run(plan, Path(folder), _say).execute())
        except NotMeasured as error:
            _say(f"the limit was not measured: {error}")
            return _FAILED
        except KeyboardInterrupt:
            return _FAILED
    report = with_facts(report, _facts(plan, report))
    text = table.render(report)
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    if report.errors:
        return _FAILED
    return _INCOMPLETE if report.missing and not arguments.allow_missing else _MEASURED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--model", type=_model, default="lite0", help="lite0 (real work) or fake (light)")
    parser.add_argument("--rounds", type=_positive, default=3)
    parser.add_argument("--requests", type=_positive, help="in one cell, four a caller at least; default by model")
    parser.add_argument("--concurrency", type=_list_of(_positive), default=(1, 8, 32), metavar="N,N")
    parser.add_argument("--peers", type=_list_of(_contestant), default=tuple(CONTESTANTS), metavar="NAME,NAME")
    parser.add_argument("--photos", type=_positive, default=32, help="how many different ones")
    parser.add_argument("--attempts", type=_positive, default=2, help="at a cell that other programs disturb")
    parser.add_argument("--cell-seconds", type=float, default=12.0, help="no new requests in a cell after this")
    parser.add_argument("--total-seconds", type=float, default=540.0, help="no round that would end after this")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--allow-missing", action="store_true", help="exit 0 when a peer could not be measured")
    return parser


def _facts(plan: Plan, report: Report) -> dict[str, str]:
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES if _installed(name)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, shared by client and server",
        "software": ", ".join([f"Python {platform.python_version()}", *versions]),
        "model": plan.model,
        "run": f"{report.rounds} rounds, {plan.requests} requests or more a cell",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _model(text: str) -> str:
    try:
        Specification.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _contestant(text: str) -> str:
    if text not in CONTESTANTS:
        raise argparse.ArgumentTypeError(f"unknown {text!r}; there are {', '.join(CONTESTANTS)}")
    return text


def _list_of(item: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(item(part) for part in text.split(","))


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
