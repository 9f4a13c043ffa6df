"""What a lookup and a proxied image cost a gateway, and what workers cost it and Consul when nothing is asked."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bench import measure
from bench.fleet.gateways import Load, cpu_seconds, look_up, predict
from bench.fleet.world import Fleet
from chaos.consul import Agent, Quorum

_SETTLE_SECONDS = 3.0
_WARM_RATE = 60.0
_PICTURE_SHARE = 0.2  # of the rate, because a picture is more work than a lookup


async def compare(
    few: Fleet, many: Fleet, quorum: Quorum, arguments: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    """The costs of one gateway of each fleet, measured in turn; the medians of the rounds, and their ratios."""
    rounds: Mapping[str, list[dict[str, float]]] = defaultdict(list)
    await asyncio.sleep(_SETTLE_SECONDS)
    began, before = time.monotonic(), consul_cpu(quorum)
    for number in range(arguments.rounds):
        idle = await _idle((few, many), arguments.seconds)
        for one in (few, many) if number % 2 else (many, few):
            found = {"idle_cores": idle[one.name], "memory": one.gateways[0].memory()}
            for name, request, rate in (
                ("lookup", look_up, arguments.rate),
                ("image", predict, arguments.rate * _PICTURE_SHARE),
            ):
                found |= await _loaded(one, name, request, rate, arguments.seconds, idle[one.name])
            rounds[one.name].append(found)
            say(f"round {number + 1} {one.name}: " + ", ".join(f"{k} {v:.6g}" for k, v in found.items()))
    medians = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]} for name, found in rounds.items()
    }
    ratios = {key: medians["many"][key] / max(1e-9, medians["few"][key]) for key in medians["few"]}
    seconds, after = time.monotonic() - began, consul_cpu(quorum)
    return {
        **medians,
        "ratios": ratios,
        "consul": {k: (after[k] - before[k]) / seconds for k in after} | memory(quorum),
    }


async def _idle(fleets: tuple[Fleet, ...], seconds: float) -> dict[str, float]:
    """The cores that a gateway of each takes without a request: its polls above all."""
    before = [one.gateways[0].cpu_seconds() for one in fleets]
    await asyncio.sleep(seconds)
    return {
        one.name: (one.gateways[0].cpu_seconds() - began) / seconds for one, began in zip(fleets, before, strict=True)
    }


async def _loaded(
    one: Fleet, name: str, request: Callable[[Load], Awaitable[int]], rate: float, seconds: float, idle: float
) -> dict[str, float]:
    gateway = one.gateways[0]
    await Load(one.session, gateway.url, _WARM_RATE).run(one.count / _WARM_RATE + 0.5, request)  # a connection to each
    load = Load(one.session, gateway.url, rate)
    began, before = asyncio.get_running_loop().time(), gateway.cpu_seconds()
    await load.run(seconds, request)
    took, cpu = asyncio.get_running_loop().time() - began, gateway.cpu_seconds() - before
    requests = load.outcomes.total()
    return {
        f"{name}_ms_with_polls": cpu / requests * 1000,
        f"{name}_ms": (cpu - idle * took) / requests * 1000,
        f"{name}_rate": requests / took,
        f"{name}_failed": load.failed,
        f"{name}_p50_ms": statistics.median(load.seconds) * 1000,
    }


def consul_cpu(quorum: Quorum) -> dict[str, float]:
    """CPU seconds so far: of the servers together, and of the client agents together."""
    return {
        "servers_cores": sum(cpu_seconds(pid_of(agent)) for agent in quorum.servers),
        "clients_cores": sum(cpu_seconds(pid_of(agent)) for agent in quorum.agents if not agent.is_server),
    }


def memory(quorum: Quorum) -> dict[str, float]:
    """Bytes (PSS) of the largest server, and of the largest client agent."""
    sizes = {agent: measure.memory([pid_of(agent)]).pss for agent in quorum.agents}
    return {
        "server_memory": max(size for agent, size in sizes.items() if agent.is_server),
        "client_memory": max(size for agent, size in sizes.items() if not agent.is_server),
    }


def pid_of(agent: Agent) -> int:
    """Raises ``LookupError`` when the agent does not run."""
    if agent.pid is None:
        raise LookupError(f"{agent!r} does not run")
    return agent.pid
