"""``python -m chaos``: break a cluster in every way we know, and say what was lost."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from chaos import kills, scenarios
from chaos.cancellations import clients_gone
from chaos.network import Host, Network, missing, network
from chaos.outcome import Outcome
from chaos.report import Results
from chaos.scenarios import CAPACITY, MODEL
from chaos.soak import soak
from chaos.world import HOSTS, DidNotHappen, World, world
from shoal import logs, processes, service

_INSIDE = "SHOAL_CHAOS_NETWORK"

Scenario = Callable[[World], Awaitable[Outcome]]


def plan(*, short: bool) -> dict[str, Scenario]:
    """The scenarios by name, in order."""
    rounds, few = (2, 1) if short else (20, 5)
    away = 8.0 if short else 180.0
    link = 4.0 if short else 10.0
    full = 10.0 if short else 60.0
    return {
        **{victim.name.split()[-1]: partial(kills.kill, victim=victim, rounds=rounds) for victim in kills.VICTIMS},
        "leader": partial(kills.kill_leader, rounds=few if short else rounds),
        "restart": partial(scenarios.rolling_restart, rounds=few),
        "stop": partial(scenarios.stopped_worker, rounds=few),
        "links": partial(scenarios.bad_links, seconds=link),
        "consul": partial(scenarios.consul_away, seconds=away, empty=False),
        "consul-empty": partial(scenarios.consul_away, seconds=away, empty=True),
        "overload": partial(scenarios.overload, seconds=full),
        "bulk": partial(scenarios.bulk_waits, seconds=full, rate=10, bulk_rate=2 * 3 * CAPACITY),
        **({} if short else {"soak": partial(soak, minutes=30.0)}),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few rounds of everything, in minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of clients, {', '.join(plan(short=False))}")
    parser.add_argument("--rate", type=float, default=90.0, metavar="N", help="images a second")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep what was found there (JSON)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the page of those results there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the logs there")
    return parser.parse_args()


def main() -> int:
    """Build the network, and run the rest of us inside it. Returns 1 when a promise did not hold, 2 without one."""
    options = _options()
    if inside := os.environ.get(_INSIDE):
        processes.die_with_parent()
        return service.run(_run(options, _network_of(inside)))
    if reason := missing():
        sys.stderr.write(f"chaos: {reason}\n")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises, so that the network is deleted
    with network(HOSTS) as built:
        return _run_inside(built)


def _run_inside(built: Network) -> int:
    """Run ourselves in the hub, which gets our signals: it ends in order, and the network after it."""
    command = [*built.hub.prefix, sys.executable, "-m", "chaos", *sys.argv[1:]]
    environ = {**os.environ, _INSIDE: _described(built)}
    with subprocess.Popen(command, env=environ, start_new_session=True) as inside:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: inside.send_signal(number))
        return inside.wait()


def _described(built: Network) -> str:
    return msgspec.json.encode({"hub": built.hub.holder, "hosts": list(built.hosts.values())}).decode()


def _network_of(text: str) -> Network:
    class Description(msgspec.Struct):
        hub: int
        hosts: list[Host]

    described = msgspec.json.decode(text, type=Description)
    return Network(described.hub, {host.name: host for host in described.hosts})


async def _run(options: argparse.Namespace, built: Network) -> int:
    logs.configure("warning", role="chaos")
    stop = service.Stop()
    stop.listen()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        folder = options.keep or Path(scratch)
        work = asyncio.create_task(_break(options, built, folder, outcomes))
        stopping = asyncio.create_task(stop.requested())
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not work.done():
            work.cancel()
        await asyncio.gather(work, return_exceptions=stop.is_requested)
    complete = outcomes and not stop.is_requested
    return 0 if complete and all(outcome.holds for outcome in outcomes) else 1


async def _break(options: argparse.Namespace, built: Network, folder: Path, outcomes: list[Outcome]) -> None:
    chosen = {n: s for n, s in plan(short=options.short).items() if not options.only or n in options.only}
    results = Results.load(options.results)

    def keep(name: str, outcome: Outcome) -> None:
        outcomes.append(outcome)
        _tell(name, outcome)
        results.add(name, outcome, facts=_facts(options))
        if options.results:
            results.save(options.results)
        if options.report:
            options.report.write_text(results.page([*plan(short=False), "clients", "logs"]), encoding="utf-8")

    if not options.only or "clients" in options.only:
        keep("clients", await clients_gone(folder, 2 if options.short else 20))
    if not chosen:
        return
    async with world(built, folder, consul=os.environ.get("CONSUL_BIN", "consul"), model=MODEL) as made:
        for name, scenario in chosen.items():
            made.order(rate=options.rate, bulk_rate=0, closed=0, timeout=30)
            await made.settle()
            made.take_ends()
            try:
                keep(name, await scenario(made))
            except DidNotHappen as failure:
                outcome = Outcome(name, "it came to no end")
                outcome.check("it ends", failure, holds=False)
                keep(name, outcome)
        outcome = Outcome("Logs", "what no process should write")
        errors = made.journal.errors
        outcome.check("no unexpected error in any log", "; ".join(errors[:5]) or "none", not errors)
        keep("logs", outcome)


def _tell(name: str, outcome: Outcome) -> None:
    verdict = "holds" if outcome.holds else "DOES NOT HOLD"
    failed = outcome.tally.failures.total()
    sys.stdout.write(
        f"{name}: {verdict}  {outcome.counted} of {outcome.tried} rounds, {failed} of "
        f"{outcome.tally.requests.total()} requests failed, recovery {outcome.recovery()} s\n"
    )
    for claim, found, holds in outcome.checks:
        sys.stdout.write(f"    {'ok ' if holds else 'NOT'} {claim}: {found}\n")
    for example in outcome.tally.examples if not outcome.holds else ():
        sys.stdout.write(f"        {example}\n")
    sys.stdout.flush()


def _facts(options: argparse.Namespace) -> dict[str, str]:
    return {
        "model": MODEL,
        "rate": f"{options.rate:g}",
        "share": f"{options.rate / (2 * CAPACITY):.0%}",
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
    }


if __name__ == "__main__":
    raise SystemExit(main())
