"""Half an hour of load and kills: what grows that should not."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.outcome import Outcome
from chaos.world import GATEWAYS, WORKERS, World

KILL_EVERY = 20.0
_WARM_UP = 0.2
_SAMPLE_EVERY = 5.0
_SLOPE = 2.0  # MiB an hour; a first page of counters or a longer free list is no leak
_FILES = 5  # a process whose Redis was replaced opens its connections anew, as many as it then needs
_MIB = 1 << 20


@dataclass
class Life:
    """One process: what it is, and its memory and open files over time."""

    name: str
    times: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def sample(self, pid: int, now: float) -> None:
        with suppress(OSError, ValueError, IndexError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            memory = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
            files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            self.times.append(now)
            self.memory.append(memory * 1024 / _MIB)
            self.files.append(files)

    def after(self, warm: float) -> Life:
        """Its later part."""
        first = next((n for n, at in enumerate(self.times) if at >= warm), len(self.times))
        return Life(self.name, self.times[first:], self.memory[first:], self.files[first:])

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0] if self.times else 0.0

    def slope(self) -> float:
        """Growth of the memory in MiB an hour: Theil and Sen's median of slopes, which a single jump does not move."""
        count = len(self.times)
        step = max(1, count // 60)
        points = list(zip(self.times[::step], self.memory[::step], strict=True))
        slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2) if b[0] > a[0])
        return 3600 * slopes[len(slopes) // 2] if slopes else 0.0

    def gained_files(self) -> int:
        """How many more it has open at its calmest in the last third than in the first."""
        third = max(1, len(self.files) // 3)
        return min(self.files[-third:]) - min(self.files[:third])


async def soak(world: World, minutes: float) -> Outcome:
    """Load, and a kill each twenty seconds of a model process, a front or a Redis of workers 1 and 2.

    The third worker, the gateways and the supervisors live through it all: their memory is what is watched.
    """
    outcome = Outcome(
        "Soak with kills", f"{minutes:g} minutes, a kill each {KILL_EVERY:g} s on {', '.join(WORKERS[:2])}"
    )
    lives: dict[int, Life] = {}
    began = time.monotonic()
    killing = asyncio.create_task(_keep_killing(world, outcome))
    try:
        while (now := time.monotonic() - began) < minutes * 60:
            _sample(world, lives, now)
            outcome.tally.add(world.take_ends())
            if int(now) % 60 < _SAMPLE_EVERY:
                world.journal.forget_dead()
            await asyncio.sleep(_SAMPLE_EVERY)
    finally:
        killing.cancel()
        await asyncio.wait([killing])
    await world.settle()
    outcome.tally.add(world.take_ends())
    _judge(outcome, [life.after(_WARM_UP * minutes * 60) for life in lives.values()], minutes)
    outcome.conclude(executions=None)
    return outcome


async def _keep_killing(world: World, outcome: Outcome) -> None:
    for node, role in itertools.cycle(itertools.product(WORKERS[:2], ("model", "front", "redis"))):
        await asyncio.sleep(KILL_EVERY)
        for pid in world.running.node(node).pids.get(role, ()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                outcome.tried += 1
                outcome.counted += 1


def _sample(world: World, lives: dict[int, Life], now: float) -> None:
    for name in (*GATEWAYS, *WORKERS):
        for role, pids in world.running.node(name).pids.items():
            for pid in pids:
                lives.setdefault(pid, Life(f"{role} of {name}")).sample(pid, now)


def _judge(outcome: Outcome, lives: Sequence[Life], minutes: float) -> None:
    """Of those that lived through most of it."""
    survivors = [life for life in lives if life.seconds > 0.5 * minutes * 60]
    steepest = max(survivors, key=Life.slope)
    fullest = max(survivors, key=Life.gained_files)
    claim = f"no memory grows after the warm-up (below {_SLOPE:g} MiB an hour), of {len(survivors)} processes"
    found = f"steepest: {steepest.name}, {steepest.slope():+.2f} MiB an hour of {steepest.memory[-1]:.0f} MiB"
    outcome.check(claim, found, steepest.slope() < _SLOPE)
    gained = f"most: {fullest.name}, {fullest.gained_files():+d}"
    claim = f"file descriptors gained by the last third: at most {_FILES}, as pools of connections breathe"
    outcome.check(claim, gained, fullest.gained_files() <= _FILES)
