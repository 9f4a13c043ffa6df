"""SIGKILL of one process after another, each while it holds an unanswered request or job, followed until recovery."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from chaos.outcome import Outcome
from chaos.world import GATEWAYS, WORKERS, DidNotHappen, World

_CATCH_SECONDS = 10.0


@dataclass(frozen=True)
class Victim:
    """What is killed: these roles of a node's processes. Its ``hoard`` is where an unanswered job is looked for."""

    name: str
    nodes: tuple[str, ...]
    roles: tuple[str, ...]
    hoard: tuple[str, ...]


VICTIMS = (
    Victim("a model process", WORKERS, ("model",), ("model",)),
    Victim("a front", WORKERS, ("front",), ("front",)),
    Victim("a node's Redis", WORKERS, ("redis",), ("redis",)),
    Victim("a supervisor", WORKERS, ("worker",), ("front", "model")),
    Victim("a whole worker", WORKERS, ("worker", "front", "model", "redis"), ("front", "model")),
    Victim("a gateway", GATEWAYS, ("gateway",), ("gateway",)),
)


async def kill(world: World, victim: Victim, rounds: int) -> Outcome:
    """Kill ``rounds`` times while it counts, in turn on each node."""
    outcome = Outcome(f"SIGKILL of {victim.name}", f"{', '.join(victim.roles)} on {', '.join(victim.nodes)} in turn")
    for node in itertools.cycle(victim.nodes):
        if outcome.counted >= rounds or outcome.tried >= 3 * rounds:
            break
        outcome.tried += 1
        outcome.counted += await _kill_once(world, victim, node, outcome)
        outcome.most_executions = max(outcome.most_executions, *world.journal.executions.values(), 0)
        outcome.tally.add(world.take_ends())
    outcome.check(f"{rounds} rounds with an unanswered job", outcome.counted, outcome.counted >= rounds)
    outcome.conclude()
    return outcome


async def _kill_once(world: World, victim: Victim, node: str, outcome: Outcome) -> bool:
    """One round. Returns whether the victim held something that was never answered by it."""
    world.journal.forget_dead()
    pids = {role: list(numbers) for role, numbers in world.running.node(node).pids.items()}
    doomed = [pid for role in victim.roles for pid in pids[role]]
    hoarders = [pid for role in victim.hoard for pid in pids[role]]

    def held() -> int:
        return world.journal.held_in_redis(node) if victim.hoard == ("redis",) else world.journal.held_by(hoarders)

    with suppress(DidNotHappen):
        await world.until(lambda: held() > 0, "an unanswered job", within=_CATCH_SECONDS)
    in_redis = held()
    began = time.monotonic()
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.1)
    world.journal.read()
    counts = (in_redis if victim.hoard == ("redis",) else held()) > 0
    done = dict(world.journal.done)
    await world.until(lambda: _is_replaced(world, node, pids, victim.roles), f"{node}'s new {victim.name}")
    await world.until(lambda: _works(world, node, done), f"an answer by {node}")
    await world.until(world.all_ready, "everybody ready", within=90)
    outcome.recoveries.append(time.monotonic() - began)
    await world.settle()
    return counts


def _is_replaced(world: World, node: str, before: Mapping[str, list[int]], roles: tuple[str, ...]) -> bool:
    now = world.running.node(node).pids
    return all(now.get(role) and not set(now[role]) & set(before[role]) for role in roles)


def _works(world: World, node: str, done: Mapping[int, int]) -> bool:
    """Whether each process of the node that answers or executes has done so since."""
    now = world.running.node(node).pids
    pids = [pid for role in ("gateway", "front", "model") for pid in now.get(role, ())]
    return all(world.journal.done[pid] > done.get(pid, 0) for pid in pids)


async def kill_leader(world: World, rounds: int) -> Outcome:
    """Kill the Consul server that leads; the next write waits for another, and requests wait for nothing."""
    outcome = Outcome("SIGKILL of the Consul leader", "of three servers; it starts again on its data")
    for _ in range(rounds):
        outcome.tried += 1
        leader = await world.consul.leader()
        await world.until(lambda: world.journal.under_way() > 0, "a request under way", within=_CATCH_SECONDS)
        outcome.counted += 1
        await leader.kill()
        outcome.recoveries.append(await world.consul.until_writable())
        await leader.start()
        await world.consul.until_writable()
        await world.settle()
        outcome.most_executions = max(outcome.most_executions, *world.journal.executions.values(), 0)
        outcome.tally.add(world.take_ends())
    outcome.conclude()
    return outcome
