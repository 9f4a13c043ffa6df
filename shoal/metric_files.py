"""The files in which the processes of a node share their counters: read as a whole, and kept small.

A process writes ``counter_PID.db``, ``histogram_PID.db`` and ``gauge_MODE_PID.db``, in the metrics library's format.
When it has ended, its gauges go, and its counters and histograms are added to those of all the dead, in one file of
each kind; of its ``max`` gauges the greatest value stays. No count is ever lost or seen twice, whenever the one who
does it is killed, because one rename decides:

    counter_PID.db -> counter_PID-N.db    the file of a dead process, to be added to the next generation of the dead
    counter_dead-N.db                     generation N: appears whole, and holds all that is named -N or less

A reader takes the newest generation of the dead, the dead of later ones, and the living.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

_KEPT: Mapping[str, Callable[[float, float], float]] = {"counter": add, "histogram": add, "gauge_max": max}
_GENERATION = re.compile(r"(?P<kind>[a-z_]+)_(?P<who>[0-9]+|dead)-(?P<generation>[0-9]+)\.db")


def bury(folder: Path, pid: int) -> None:
    """Add the counts of a process that has ended to those of the dead. Raises ``OSError``, and may be tried again."""
    for gauge in folder.glob(f"gauge_*_{pid}.db"):
        if gauge.name.rpartition("_")[0] not in _KEPT:
            gauge.unlink(missing_ok=True)
    for kind in _KEPT:
        generation = _newest(folder, kind)
        _forget(folder, kind, generation)
        own = folder / f"{kind}_{pid}.db"
        if own.exists():
            own.rename(folder / f"{kind}_{pid}-{generation + 1}.db")
        _add_up(folder, kind, generation)


def read(folder: Path) -> Sequence[Metric]:
    """What all processes have counted so far. A burial that happens meanwhile is not seen in part."""
    while True:
        files = _counting(folder)
        try:
            merged = MultiProcessCollector.merge([str(file) for file in files], accumulate=True)
        except FileNotFoundError:
            continue
        if _counting(folder) == files:
            return list(merged)


def _counting(folder: Path) -> list[Path]:
    """The files that count now, in order."""
    newest = {kind: _newest(folder, kind) for kind in _KEPT}
    return sorted(file for file in folder.glob("*.db") if _counts(file, newest) and _size(file))


def _counts(file: Path, newest: dict[str, int]) -> bool:
    named = _GENERATION.fullmatch(file.name)
    if named is None:
        return True
    generation, last = int(named["generation"]), newest[named["kind"]]
    return generation == last if named["who"] == "dead" else generation > last


def _size(file: Path) -> int:
    """0 for a file that a process has only begun, or that is gone by now."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _newest(folder: Path, kind: str) -> int:
    """The newest generation of the dead; 0 when there is none."""
    return max((int(file.stem.rpartition("-")[2]) for file in folder.glob(f"{kind}_dead-*.db")), default=0)


def _forget(folder: Path, kind: str, generation: int) -> None:
    """Remove what an interrupted burial has left of files that are in that generation already."""
    for file in folder.glob(f"{kind}_*-*.db"):
        named = _GENERATION.fullmatch(file.name)
        if named and not _counts(file, {kind: generation}):
            file.unlink(missing_ok=True)
    (folder / f"{kind}.new").unlink(missing_ok=True)


def _add_up(folder: Path, kind: str, generation: int) -> None:
    """Make the next generation of the last one and the dead that wait for it."""
    dead = [file for file in folder.glob(f"{kind}_*-{generation + 1}.db") if _size(file)]
    if not dead:
        return
    before = folder / f"{kind}_dead-{generation}.db"
    new = folder / f"{kind}.new"
    _write(new, _merged([*dead, before] if generation else dead, _KEPT[kind]))
    new.rename(folder / f"{kind}_dead-{generation + 1}.db")
    _forget(folder, kind, generation + 1)


def _merged(files: Iterable[Path], merge: Callable[[float, float], float]) -> dict[str, float]:
    values: dict[str, float] = {}
    for file in files:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):
            values[key] = merge(values[key], value) if key in values else value
    return values


def _write(path: Path, values: Mapping[str, float]) -> None:
    written = MmapedDict(str(path))
    try:
        for key, value in values.items():
            written.write_value(key, value, 0.0)
    finally:
        written.close()
