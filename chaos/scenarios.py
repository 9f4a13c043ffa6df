"""Faults that last, and load beyond what the cluster can do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from statistics import median, quantiles

from chaos.load import Answered
from chaos.network import Subnet
from chaos.outcome import Outcome
from chaos.world import WITHOUT_PUBLIC_ADDRESS, WORKERS, World
from shoal import control

EJECTED_WITHIN = 3.0
BACK_WITHIN = 10.0
GOODPUT = 0.95
BATCH = 8
BATCH_SECONDS = 0.05 + BATCH * 0.01
MODEL = f"fake?seconds_per_execution=0.05&seconds_per_image=0.01&max_batch_size={BATCH}"
CAPACITY = BATCH / BATCH_SECONDS
"""Images a second of one worker."""
WASTE = 0.01


async def rolling_restart(world: World, rounds: int) -> Outcome:
    """Every node, one after the other, under load."""
    outcome = Outcome("Rolling restart of every node", "gateways and workers, as `shoal restart --rolling` does it")
    for _ in range(rounds):
        outcome.tried += 1
        before = {pid for pids in world.running.pids.values() for pid in pids}
        began = time.monotonic()
        steps = [step async for step in control.roll(world.running.instances)]
        outcome.recoveries.append(time.monotonic() - began)
        await world.settle()
        after = {pid for pids in world.running.pids.values() for pid in pids}
        outcome.counted += steps[-1]["event"] == "done" and not before & after
        _close(world, outcome)
    outcome.check("every process was replaced", f"{outcome.counted} of {rounds}", outcome.counted == rounds)
    outcome.conclude()
    return outcome


async def stopped_worker(world: World, rounds: int, *, seconds: float = 8.0) -> Outcome:
    """SIGSTOP of every process of a worker; the network goes on answering for it, and nobody in it does."""
    outcome = Outcome("SIGSTOP of a worker", f"all its processes for {seconds:g} s, then SIGCONT")
    ejections = []
    for number in range(rounds):
        outcome.tried += 1
        name = WORKERS[number % len(WORKERS)]
        pids = [pid for numbers in world.running.node(name).pids.values() for pid in numbers]
        await world.until(partial(_holds, world, pids), "an unanswered job")
        with stopped(pids):
            until = time.monotonic() + seconds
            ejections.append(await world.until(partial(_is_out, world, name), "its ejection"))
            await asyncio.sleep(until - time.monotonic())
        outcome.recoveries.append(await world.until(world.all_ready, "everybody back"))
        now = {pid for numbers in world.running.node(name).pids.values() for pid in numbers}
        outcome.counted += now == set(pids)
        await world.settle()
        _close(world, outcome)
    worst = max(ejections)
    outcome.check(f"ejected by every gateway within {EJECTED_WITHIN:g} s", f"{worst:.1f} s", worst <= EJECTED_WITHIN)
    outcome.check("back by itself, nothing replaced", f"{outcome.counted} of {rounds}", outcome.counted == rounds)
    slowest, timeout = outcome.tally.slowest, 30.0
    outcome.check("no request beyond its deadline (30 s)", f"slowest {slowest:.1f} s", slowest <= timeout + 0.5)
    outcome.conclude()
    return outcome


def _holds(world: World, pids: list[int]) -> bool:
    return world.journal.held_by(pids) > 0


def _is_out(world: World, name: str) -> bool:
    return "ready" not in world.states(name)


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that do nothing for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def consul_away(world: World, seconds: float, *, empty: bool) -> Outcome:
    """Kill every Consul server and agent, and bring them back later, with or without what they knew."""
    back = "empty" if empty else "intact"
    outcome = Outcome(f"Consul away for {seconds:g} s, back {back}", "every server and agent killed")
    outcome.tried = 1
    dropped: set[str] = set()
    await world.consul.kill_all()
    await _watch(world, seconds, lambda: dropped.update(_missing(world)))
    began = time.monotonic()
    await world.consul.start_all(empty=empty)
    elected = time.monotonic()
    while await world.consul.passing() != set(WORKERS):
        dropped |= _missing(world)
        if time.monotonic() - elected > 6 * BACK_WITHIN:
            break
        await asyncio.sleep(0.1)
    outcome.recoveries.append(time.monotonic() - elected)
    await _watch(world, 3, lambda: dropped.update(_missing(world)))
    await world.settle()
    _close(world, outcome)
    outcome.counted = 1
    found = f"{outcome.recoveries[0]:.1f} s after it could be written to ({elected - began:.1f} s after its start)"
    outcome.check(f"all registered within {BACK_WITHIN:g} s", found, outcome.recoveries[0] <= BACK_WITHIN)
    outcome.check("nobody dropped by a gateway meanwhile", ", ".join(sorted(dropped)) or "nobody", not dropped)
    outcome.conclude()
    return outcome


def _missing(world: World) -> set[str]:
    return {
        f"{name} {view.get(name, 'gone')}"
        for name in WORKERS
        for view in world.views.values()
        if view.get(name) != "ready"
    }


async def _watch(world: World, seconds: float, look: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        look()
        await asyncio.sleep(0.1)


async def bad_links(world: World, seconds: float) -> Outcome:
    """Cut, slow down and lose packets on the links of a worker, one after the other."""
    outcome = Outcome("Bad links", f"of a worker, each for {seconds:g} s: cut, 2 Mbit/s, 5 % of packets lost")
    worker = next(name for name in WORKERS if name != WITHOUT_PUBLIC_ADDRESS)

    @contextmanager
    def cut(subnet: Subnet) -> Iterator[None]:
        world.network.cut(worker, subnet)
        try:
            yield
        finally:
            world.network.mend(worker, subnet)

    faults = [
        cut("internal"),
        cut("public"),
        world.network.slow(worker, "public", kbit=2000),
        world.network.slow(worker, "internal", kbit=2000),
        world.network.lossy(worker, "public", 0.05),
        world.network.lossy(worker, "internal", 0.05),
    ]
    for fault in faults:
        outcome.tried += 1
        with fault:
            await asyncio.sleep(seconds)
        outcome.recoveries.append(await world.until(world.all_ready, "everybody ready"))
        await world.settle()
        outcome.counted += 1
        _close(world, outcome)
    outcome.conclude()
    return outcome


async def overload(world: World, seconds: float, *, concurrency: int = 400) -> Outcome:
    """Three times what the cluster can do, at a constant rate, against what it does when it is just full."""
    outcome = Outcome("3x overload, open loop", f"for {seconds:g} s after {seconds / 2:g} s of saturation")
    outcome.tried = outcome.counted = 1
    outcome.tally.may_refuse = True
    world.take_ends()
    world.order(rate=0, closed=concurrency, timeout=20)
    await asyncio.sleep(5)
    world.take_ends()
    saturation = await _goodput(world, seconds / 2)
    world.order(closed=0)
    await world.settle()
    _close(world, outcome)
    world.order(rate=3 * saturation, timeout=4)
    await asyncio.sleep(5)
    world.take_ends()
    world.journal.forget()
    goodput = await _goodput(world, seconds, outcome)
    uploaded = world.journal.uploaded
    world.order(rate=0)
    await world.settle()
    world.take_ends()
    found = f"{goodput:.0f} of {saturation:.0f} images/s = {goodput / saturation:.2f}"
    outcome.check(f"goodput at least {GOODPUT:.2f} of saturation", found, goodput >= GOODPUT * saturation)
    waste = uploaded.refused / max(1, uploaded.all)
    outcome.check(f"direct bytes wasted below {WASTE:.0%}", f"{waste:.2%} of {uploaded.all} bytes", waste < WASTE)
    outcome.check("the rest is refused as 429 queue_full", f"{outcome.tally.refused}", outcome.tally.refused > 0)
    late = sum(outcome.tally.failures.values())
    others = {code for code in outcome.tally.failures if not code.endswith("deadline_exceeded")}
    found = f"{late} of {outcome.tally.requests.total()} were admitted and then too late"
    outcome.check("fewer than one in a thousand fails", found, late * 1000 < outcome.tally.requests.total())
    outcome.check("nothing fails in another way", ", ".join(others) or "nothing", not others)
    outcome.check("every answer is its image's", f"{outcome.tally.wrong} wrong", outcome.tally.wrong == 0)
    return outcome


async def _goodput(world: World, seconds: float, outcome: Outcome | None = None) -> float:
    """Good answers a second."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    ends = world.take_ends()
    if outcome:
        outcome.tally.add(ends)
    return sum(end.code == "ok" for end in ends) / (time.monotonic() - began)


async def bulk_waits(world: World, seconds: float, *, rate: float, bulk_rate: float) -> Outcome:
    """Interactive images alone, and then beside more bulk images than the cluster can execute."""
    outcome = Outcome("Bulk waits, interactive does not", f"{rate:g}/s interactive beside {bulk_rate:.0f}/s bulk")
    outcome.tried = outcome.counted = 1
    world.take_ends()
    world.order(rate=rate, timeout=8)  # whoever is refused would have to wait longer than that
    await asyncio.sleep(seconds / 2)
    alone = world.take_ends()
    world.order(rate=rate, bulk_rate=bulk_rate)
    await asyncio.sleep(5)
    world.take_ends()
    await asyncio.sleep(seconds)
    beside = world.take_ends()
    world.order(rate=rate, bulk_rate=0)
    await world.settle()
    world.take_ends()
    interactive = [end for end in beside if end.priority == "interactive"]
    bulk = [end for end in beside if end.priority == "bulk" and end.code == "ok"]
    outcome.tally.add([*alone, *interactive])
    outcome.conclude(executions=None)
    before, after, theirs = (_p(ends) for ends in (alone, interactive, bulk))
    found = f"p50 {after[0]:.2f} s, p95 {after[1]:.2f} s; alone {before[0]:.2f}, {before[1]:.2f}; bulk {theirs[0]:.2f}"
    most = before[1] + 2 * BATCH_SECONDS
    claim = f"interactive p95 at most two full batches ({2 * BATCH_SECONDS:.2f} s) above that without bulk"
    outcome.check(claim, found, after[1] <= most)
    done = len(bulk) / seconds
    outcome.check("bulk is not starved", f"{done:.0f} bulk images/s", done > 0)
    return outcome


def _p(ends: list[Answered]) -> tuple[float, float]:
    """The median and the 95th percentile, seconds."""
    seconds = [end.seconds for end in ends if end.code == "ok"]
    return (median(seconds), quantiles(seconds, n=20)[-1]) if len(seconds) > 1 else (0.0, 0.0)


def _close(world: World, outcome: Outcome) -> None:
    """Take what has ended, once everything has settled."""
    outcome.tally.add(world.take_ends())
    outcome.most_executions = max(outcome.most_executions, *world.journal.executions.values(), 0)
    world.journal.forget_dead()
