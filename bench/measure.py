"""CPU time and memory of a process tree, read from /proc, including what its exited children used."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat (proc(5)). ``cpu_seconds`` includes reaped children."""

    pid: int
    parent: int
    session: int
    started: int
    zombie: bool
    cpu_seconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes. RSS counts a shared page in every process, PSS divides it among them."""

    rss: int
    pss: int
    processes: int


@dataclass(frozen=True)
class Reading:
    """CPU seconds so far: of a tree, of this process (the client), and of everybody on the machine."""

    tree: float
    client: float
    machine: float

    def since(self, earlier: Reading) -> Reading:
        return Reading(self.tree - earlier.tree, self.client - earlier.client, self.machine - earlier.machine)

    def other_cores(self, seconds: float) -> float:
        """How many cores strangers took during ``seconds``: what makes a measurement worthless."""
        return max(0.0, (self.machine - self.tree - self.client) / seconds)


def read(roots: Collection[int]) -> Reading:
    return Reading(cpu_seconds(roots), time.process_time(), _machine())


def tree(roots: Collection[int]) -> list[Process]:
    """The roots that live, all their descendants, and whoever is still in a root's session."""
    everyone = _everyone()
    found = {process.pid for process in everyone if process.pid in roots or process.session in roots}
    for _ in range(len(everyone)):  # as deep as a tree can be
        children = {process.pid for process in everyone if process.parent in found} - found
        if not children:
            break
        found |= children
    return [process for process in everyone if process.pid in found]


def alive(processes: Collection[Process]) -> list[Process]:
    """Those of ``processes`` that still run: the same start time, and not a zombie."""
    now = ((process, _stat(process.pid)) for process in processes)
    return [process for process, found in now if found and found.started == process.started and not found.zombie]


def cpu_seconds(roots: Collection[int]) -> float:
    """Grows monotonically as long as the tree's processes reap their children."""
    return sum(process.cpu_seconds for process in tree(roots))


def memory(roots: Collection[int]) -> Memory:
    pids = [process.pid for process in tree(roots)]
    sizes = [_smaps(pid) for pid in pids]
    return Memory(sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes), len(pids))


def _machine() -> float:
    """Busy time of all cores, stolen time included (proc(5), first line of /proc/stat)."""
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = (_PROC / "stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, interrupts, soft, stolen))) / _TICKS


def _everyone() -> list[Process]:
    numbered = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return [process for pid in numbered if (process := _stat(pid)) is not None]


def _stat(pid: int) -> Process | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:  # it has just ended
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name in brackets may hold anything; field 3 comes next
    ticks = sum(int(field) for field in fields[11:15])
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] == "Z", ticks / _TICKS)


def _smaps(pid: int) -> tuple[int, int]:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return sizes.get("Rss", 0) * 1024, sizes.get("Pss", 0) * 1024
