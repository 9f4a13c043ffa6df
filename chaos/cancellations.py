"""Clients that leave while their images wait: what is executed all the same."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos.journal import Journal
from chaos.outcome import Outcome
from chaos.pictures import Picture, pictures
from shoal import AsyncClient, launcher
from shoal.client import Mode
from shoal.launcher import Plan

_BATCH = 4
_JOBS, _STAY = 100, 10
_MODEL = f"fake?seconds_per_execution=0.3&max_batch_size={_BATCH}"
_MODES: tuple[Mode, ...] = ("direct", "proxy")


async def clients_gone(folder: Path, rounds: int) -> Outcome:
    """One hundred images wait at one worker, and ninety of those who sent them leave."""
    outcome = Outcome(
        "Clients gone", f"{_JOBS} jobs at one worker (batches of {_BATCH}), {_JOBS - _STAY} clients leave"
    )
    plan = Plan(workers=1, models=(_MODEL,), log_level="debug", log_folder=folder / "cancellations")
    journal = Journal(folder / "cancellations")
    beyond = []
    async with launcher.cluster(plan) as running:
        endless = pictures(7)
        for mode in itertools.islice(itertools.cycle(_MODES), rounds):
            async with AsyncClient(running.gateways[0], api_key=running.api_key, mode=mode, timeout=60) as client:
                outcome.tried += 1
                beyond.append(await _leave(client, journal, endless))
                outcome.counted += 1
    journal.close()
    outcome.check(f"at most one batch ({_BATCH}) executed beyond the {_STAY}", max(beyond), max(beyond) <= _BATCH)
    return outcome


async def _leave(client: AsyncClient, journal: Journal, endless: Iterator[Picture]) -> int:
    """How many images were executed for nobody."""
    journal.read()
    before = journal.images.total()
    calls = [asyncio.create_task(client.predict(picture.data)) for picture in itertools.islice(endless, _JOBS)]
    await _until_depth(client, at_least=_JOBS - 3 * _BATCH)
    await _until_claimed(journal, lambda: sum(call.done() for call in calls) == journal.images.total() - before)
    for call in calls[: _JOBS - _STAY]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    wanted = sum(not isinstance(answer, BaseException) for answer in answers)
    await _until_depth(client, at_most=0)
    journal.read()
    return journal.images.total() - before - wanted


async def _until_claimed(journal: Journal, all_answered: Callable[[], bool]) -> None:
    """Wait for the beginning of an execution. One that ends meanwhile would be for nobody by our own haste."""
    known = _claimed(journal)
    async with asyncio.timeout(60):
        while True:
            if _claimed(journal) - known and all_answered():
                return
            await asyncio.sleep(0.01)


def _claimed(journal: Journal) -> set[str]:
    """The jobs that are being executed now."""
    journal.read()
    return {job for jobs in journal.claimed.values() for job in jobs}


async def _until_depth(client: AsyncClient, *, at_least: int = 0, at_most: int = 1 << 30) -> None:
    async with asyncio.timeout(60):
        while True:
            (worker,) = (await client.status())["workers"]
            if at_least <= sum(load["queue_depth"] for load in worker["models"].values()) <= at_most:
                return
            await asyncio.sleep(0.02)
