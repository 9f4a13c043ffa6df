"""Compare a gateway of a large fleet with one of a small fleet, and time what each gateway hears:
``python -m bench.fleet --workers 200 --gateways 3``.

Both fleets run at once, under one Consul, and are measured in turn, round after round. docs/scaling.md has the results.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector

from bench.fleet.changes import changes, consul_faults
from bench.fleet.costs import compare
from bench.fleet.quorum import local_quorum
from bench.fleet.world import fleet
from shoal import tickets

FEW = 2


async def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    key, keys = folder / "ticket.key", folder / "ticket-keys.json"
    tickets.generate(key, keys)
    async with AsyncExitStack() as stack:
        agents = max(2, -(-arguments.workers // arguments.per_agent))
        quorum = await stack.enter_async_context(local_quorum(arguments.consul, folder, agents))
        _say(f"{quorum!r}")
        options = [f"--whole-fleet={arguments.whole_fleet}", f"--gateways-per-worker={arguments.gateways_per_worker}"]
        urls = [agent.url.replace("http", "consul", 1) for agent in quorum.agents if not agent.is_server]
        connector = TCPConnector(limit=0, keepalive_timeout=60)
        timeout = ClientTimeout(total=10)
        session = await stack.enter_async_context(ClientSession(connector=connector, timeout=timeout))
        fleets = [
            await stack.enter_async_context(
                fleet(
                    name,
                    urls,
                    workers,
                    gateways,
                    key=key,
                    keys=keys,
                    folder=folder,
                    session=session,
                    options=options,
                    check_interval=arguments.check_interval,
                )
            )
            for name, workers, gateways in (("few", FEW, 1), ("many", arguments.workers, arguments.gateways))
        ]
        few, many = fleets
        document: dict[str, Any] = {"workers": arguments.workers, "gateways": arguments.gateways, "few": FEW}
        _say("both fleets are ready")
        document["costs"] = await compare(few, many, quorum, arguments, _say)
        document["changes"] = await changes(many, quorum, arguments.mass, _say)
        if not arguments.without_faults:
            document["consul"] = await consul_faults(many, quorum, _say)
        return document


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--workers", type=int, default=200, help="simulated workers of the large fleet")
    parser.add_argument("--gateways", type=int, default=3, help="its gateways")
    parser.add_argument("--whole-fleet", type=int, default=400, help="the setting whole_fleet of the gateways")
    parser.add_argument("--gateways-per-worker", type=int, default=4, help="likewise")
    parser.add_argument("--rate", type=float, default=200.0, help="lookups a second at one gateway")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mass", type=int, default=50, help="workers that come or go at once")
    parser.add_argument("--per-agent", type=int, default=50, help="workers that one Consul agent carries")
    parser.add_argument("--check-interval", type=float, default=1.0, help="of Consul, seconds")
    parser.add_argument("--without-faults", action="store_true", help="leave Consul alone")
    parser.add_argument("--total-seconds", type=float, default=540.0, help="give up after this")
    parser.add_argument("--consul", default=os.environ.get("CONSUL_BIN") or shutil.which("consul"))
    parser.add_argument("--folder", type=Path, help="an empty one, for what Consul stores and everybody logs")
    parser.add_argument("--output", type=Path, help="write the results to this file too")
    return parser


async def _bounded(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    async with asyncio.timeout(arguments.total_seconds):
        return await run(arguments, folder)


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.consul is None:
        _say("there is no consul: set CONSUL_BIN")
        return 2
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-fleet-")))
        document = asyncio.run(_bounded(arguments, folder))
    text = json.dumps(document, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"fleet: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
