"""The interleaved run: every contestant in turn, again and again, so that a noisy minute hits them all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from bench import measure, peers, photos
from bench.limit import Order, Pace, Ready
from bench.load import Album, Outcome, Photo, drive
from bench.processes import Failed, NotMeasured, Tree
from bench.records import LIMIT, Cell, Report, Setting

SWEEP = tuple(Setting(threads=threads, batch_size=batch) for threads in (1, 2, 3) for batch in (1, 8, 32))
IN_TURN = Setting()

_LOAD_SECONDS = 180.0
_IDLE_SECONDS = 2.0
_CLEAR_MARGIN = 1e-3  # far above what floats differ by between batch sizes
_FEWEST_PHOTOS = 4
_FEWEST_WAVES = 4  # requests a caller sends, and batches the limit executes, whatever --requests says


@dataclass(frozen=True)
class Plan:
    """The run to make. Times are upper bounds in seconds; ``total_seconds`` decides how many rounds fit."""

    model: str
    contestants: tuple[str, ...]
    concurrency: tuple[int, ...]
    rounds: int
    requests: int
    photos: int
    attempts: int
    cell_seconds: float
    total_seconds: float


class Run:
    """One execution of a plan, with every process it needs inside ``folder``."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._say = say
        self._servers: dict[str, peers.Server] = {}
        self._missing: dict[str, str] = {}
        self._failures: set[str] = set()
        self._cells: list[Cell] = []
        self._memory: dict[str, measure.Memory] = {}
        self._idle: dict[str, float] = {}

    async def execute(self) -> Report:
        """Raises ``NotMeasured`` when the limit itself cannot be measured."""
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            limit, ready, album = await self._start_limit(stack)
            for name in dict.fromkeys(peers.CONTESTANTS[each].server for each in self._plan.contestants):
                await self._start(name, ready, album, stack)
            for server in self._servers.values():
                _pause(server)
            rounds = 0
            longest = 0.0
            while rounds < self._plan.rounds:
                before = time.monotonic()
                if rounds and before - started + longest > self._plan.total_seconds:
                    self._say(f"no time for round {rounds + 1}")
                    break
                await self._round(limit, album)
                rounds += 1
                longest = max(longest, time.monotonic() - before)
                self._say(f"round {rounds} of {self._plan.rounds} took {time.monotonic() - before:.0f} s")
        titles = {LIMIT: "the limit: one process, no HTTP"}
        titles |= {name: peers.CONTESTANTS[name].title for name in self._plan.contestants}
        return Report(
            facts={
                "photos": f"{len(ready.truths)} of 640 x 480, {len({truth.label for truth in ready.truths})} labels"
            },
            titles=titles,
            cells=tuple(self._cells),
            rounds=rounds,
            memory=self._memory,
            idle_cores=self._idle,
            missing=self._missing,
            failures=frozenset(self._failures),
        )

    async def _start_limit(self, stack: AsyncExitStack) -> tuple[Tree, Ready, Album]:
        self._say("making photos, loading the model in process")
        jpegs = await asyncio.to_thread(photos.make, self._plan.photos)
        for number, jpeg in enumerate(jpegs):
            (self._folder / f"{number:04d}.jpg").write_bytes(jpeg)
        limit = await Tree.of_module("bench.limit", [self._plan.model, str(self._folder)], {}, self._folder)
        stack.push_async_callback(limit.stop)
        ready = msgspec.json.decode(await limit.line(_LOAD_SECONDS), type=Ready)
        clear = [
            Photo(jpeg, truth.label)
            for jpeg, truth in zip(jpegs, ready.truths, strict=True)
            if truth.margin > _CLEAR_MARGIN
        ]
        if len(clear) < _FEWEST_PHOTOS:
            raise NotMeasured(f"only {len(clear)} of {len(jpegs)} photos have a clear answer")
        return limit, ready, Album(clear)

    async def _start(self, name: str, ready: Ready, album: Album, stack: AsyncExitStack) -> None:
        self._say(f"starting {name}")
        users = [each for each in self._plan.contestants if peers.CONTESTANTS[each].server == name]
        try:
            server = await peers.start(name, ready.task, self._folder, album)
        except NotMeasured as error:
            self._give_up(users, error)
            return
        stack.push_async_callback(server.stop)
        self._servers[name] = server
        before = measure.cpu_seconds(server.tree.roots)
        await asyncio.sleep(_IDLE_SECONDS)
        idle = (measure.cpu_seconds(server.tree.roots) - before) / _IDLE_SECONDS
        self._idle |= dict.fromkeys(users, idle)

    async def _round(self, limit: Tree, album: Album) -> None:
        for setting in (IN_TURN, *SWEEP):
            self._cells.append(await self._quietest(partial(self._limit_cell, limit, setting)))
        self._memory[LIMIT] = measure.memory(limit.roots)
        for name in self._plan.contestants:
            if name in self._missing:
                continue
            server = self._servers[peers.CONTESTANTS[name].server]
            server.tree.resume()
            try:
                for concurrency in self._plan.concurrency:
                    cell = partial(self._cell, name, server, concurrency, album)
                    self._cells.append(await self._quietest(cell))
                self._memory[name] = measure.memory(server.tree.roots)
            except NotMeasured as error:
                self._give_up([name], error)
            finally:
                _pause(server)

    def _give_up(self, contestants: Sequence[str], reason: NotMeasured) -> None:
        self._say(f"not measured: {', '.join(contestants)}: {reason}")
        self._missing |= dict.fromkeys(contestants, str(reason))
        self._cells = [cell for cell in self._cells if cell.contestant not in contestants]
        if isinstance(reason, Failed):
            self._failures.update(contestants)

    async def _quietest(self, measure_cell: Callable[[], Awaitable[Cell]]) -> Cell:
        """The attempt that strangers disturbed least, whatever its result; the first quiet one is enough."""
        attempts: list[Cell] = []
        for _ in range(self._plan.attempts):
            attempts.append(await measure_cell())
            if attempts[-1].errors or not attempts[-1].disturbed:
                return attempts[-1]
        return min(attempts, key=lambda cell: cell.other_cores)

    async def _limit_cell(self, limit: Tree, setting: Setting) -> Cell:
        images = (
            max(self._plan.requests, _FEWEST_WAVES * setting.batch_size)
            if setting.threads
            else self._plan.requests // 2
        )
        before = measure.read(limit.roots)
        await limit.tell(msgspec.json.encode(Order(setting.threads, setting.batch_size, images)))
        pace = msgspec.json.decode(await limit.line(_LOAD_SECONDS), type=Pace)
        spent = measure.read(limit.roots).since(before)
        others = spent.other_cores(pace.seconds)
        return Cell(
            LIMIT, setting, images, pace.seconds, tuple(pace.latencies), spent.tree, spent.client, other_cores=others
        )

    async def _cell(self, name: str, server: peers.Server, concurrency: int, album: Album) -> Cell:
        send = peers.CONTESTANTS[name].sender(server.facts)
        requests = max(self._plan.requests, _FEWEST_WAVES * concurrency)
        roots = server.tree.roots
        measured = await drive(
            send,
            album,
            requests=requests,
            concurrency=concurrency,
            seconds=self._plan.cell_seconds,
            meter=lambda: measure.read(roots),
        )
        if not measured.latencies:
            errors = measured.errors or ["no answer"]
            raise Failed(f"{errors[0]}{server.tree.last_words() if server.tree.ended else ''}")
        return _cell(name, Setting(concurrency=concurrency), measured)


def _cell(name: str, setting: Setting, outcome: Outcome) -> Cell:
    return Cell(
        name,
        setting,
        len(outcome.latencies),
        outcome.seconds,
        tuple(outcome.latencies),
        outcome.spent.tree,
        outcome.spent.client,
        outcome.spent.other_cores(outcome.seconds),
        _mean_batch(outcome.batch_sizes),
        tuple(outcome.errors),
    )


def _mean_batch(sizes: Sequence[int]) -> float | None:
    """Images by executions: an image of a batch of n stands for 1/n of an execution."""
    return len(sizes) / sum(1 / size for size in sizes) if sizes else None


def _pause(server: peers.Server) -> None:
    if peers.KINDS[server.name].pausable:
        server.tree.pause()


def with_facts(report: Report, facts: dict[str, str]) -> Report:
    return replace(report, facts={**facts, **report.facts})
