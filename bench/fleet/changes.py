"""How long every gateway takes to hear of workers that come, leave and die, and what a lost Consul costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bench.fleet.costs import consul_cpu
from bench.fleet.gateways import Load, look_up, told
from bench.fleet.workers import Order
from bench.fleet.world import Fleet
from chaos.consul import Quorum

_REPEATS = 5
_SETTLE_SECONDS = 4.0
_LONGEST = 60.0
_RATE = 20.0
_AFTER_SECONDS = 5.0


async def changes(many: Fleet, quorum: Quorum, mass: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The seconds until the last gateway has heard, of single changes and of ``mass`` at once."""
    found: dict[str, Any] = {}
    for name, do, count, repeats in (
        ("add", "add", 1, _REPEATS),
        ("leave", "leave", 1, _REPEATS),
        ("kill", "kill", 1, _REPEATS),
        ("mass_add", "add", mass, 1),
        ("mass_leave", "leave", mass, 1),
        ("mass_kill", "kill", mass, 1),
    ):
        before, cpu = consul_cpu(quorum), [gateway.cpu_seconds() for gateway in many.gateways]
        seconds = [await _change(many, do, count) for _ in range(repeats)]
        await asyncio.sleep(_SETTLE_SECONDS)
        after = consul_cpu(quorum)
        found[name] = {
            "seconds": [round(value, 3) for value in sorted(seconds)],
            "gateway_cpu_seconds": max(g.cpu_seconds() - c for g, c in zip(many.gateways, cpu, strict=True)),
            "consul_cpu_seconds": {key: round(after[key] - before[key], 3) for key in after},
        }
        say(f"{name}: {found[name]}")
    return found


async def _change(many: Fleet, do: Any, count: int) -> float:
    order = Order(do, count=count) if do == "add" else Order(do, names=many.next_names(count))
    incarnations, at = await many.tell(order)
    async with asyncio.timeout(_LONGEST):
        heard = await asyncio.gather(
            *(told(many.session, gateway.url, incarnations, ready=do == "add") for gateway in many.gateways)
        )
    return max(heard) - at


async def consul_faults(many: Fleet, quorum: Quorum, say: Callable[[str], None]) -> dict[str, Any]:
    """The leader is killed and started again, then all of Consul at once, under lookups at a low rate."""
    return {
        "leader_killed": await _fault(many, quorum, False, say),
        "all_killed": await _fault(many, quorum, True, say),
    }


async def _fault(many: Fleet, quorum: Quorum, everyone: bool, say: Callable[[str], None]) -> dict[str, Any]:
    agents = quorum.agents if everyone else [await quorum.leader()]
    expected = await _passing(many, quorum)
    load = Load(many.session, many.gateways[0].url, _RATE)
    loading = asyncio.create_task(load.run(_LONGEST * 2, look_up))
    began = time.monotonic()
    await asyncio.gather(*(agent.kill() for agent in agents))
    if everyone:
        await quorum.start_all()
    else:
        await quorum.until_writable()
    writable = time.monotonic() - began
    before = consul_cpu(quorum) if everyone else {}
    for agent in agents if not everyone else ():
        await agent.start()
    await _all_pass(many, quorum, expected)
    whole = time.monotonic() - began
    await asyncio.sleep(_AFTER_SECONDS)
    loading.cancel()
    await asyncio.wait([loading])
    found = {
        "seconds_until_writable": round(writable, 2),
        "seconds_until_all_pass": round(whole, 2),
        "workers_passing": expected,
        "lookups": load.outcomes.total(),
        "failed": load.failed,
        "consul_cpu_seconds": {key: round(value - before[key], 2) for key, value in consul_cpu(quorum).items()}
        if everyone
        else {},
    }
    say(f"{'all of Consul' if everyone else 'the leader'} killed: {found}")
    return found


async def _all_pass(many: Fleet, quorum: Quorum, count: int) -> None:
    give_up = time.monotonic() + _LONGEST
    while await _passing(many, quorum) < count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"not {count} workers pass after {_LONGEST:g} s")
        await asyncio.sleep(0.1)


async def _passing(many: Fleet, quorum: Quorum) -> int:
    client = next(agent for agent in quorum.agents if not agent.is_server)
    async with many.session.get(f"{client.url}/v1/health/service/{many.name}-worker?passing=true") as response:
        return len(await response.json()) if response.status == 200 else 0
