"""What processes have counted outlives them, in one file, whatever happens while it is brought there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from shoal import metric_files
from shoal.metrics import FrontMetrics, ModelMetrics

REQUESTS = 'shoal_requests_total{code="ok",model="fake@1",path="/predict"}'
DURATIONS = 'shoal_request_duration_seconds_bucket{le="0.005",path="/predict"}'
COUNT = 'shoal_request_duration_seconds_count{path="/predict"}'
IMAGES = 'shoal_images_total{model="fake@1"}'
LAST = 'shoal_last_answer_timestamp_seconds{model="fake@1"}'
IN_PROGRESS = "shoal_requests_in_progress{}"


def _run(folder: Path, count: int) -> int:
    """The process id of one that has counted and was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.counting_process", str(count)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
    )
    assert process.wait(60) == -signal.SIGKILL
    return process.pid


def _samples(folder: Path) -> Mapping[str, float]:
    return {
        sample.name + "{" + ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items())) + "}": sample.value
        for metric in metric_files.read(folder)
        for sample in metric.samples
    }


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A folder that is only to be copied, with the files of three processes, and their ids."""
    folder = tmp_path_factory.mktemp("counted")
    return folder, [_run(folder, count) for count in (3, 4, 5)]


@pytest.fixture
def dead(counted: tuple[Path, list[int]], tmp_path: Path) -> tuple[Path, list[int]]:
    folder, pids = counted
    return Path(shutil.copytree(folder, tmp_path / "files")), pids


def _is_complete(samples: Mapping[str, float]) -> bool:
    return [samples[name] for name in (REQUESTS, DURATIONS, COUNT, IMAGES, LAST)] == [12, 12, 12, 24, 105]


def test_the_dead_are_counted_in_one_file_of_each_kind(dead: tuple[Path, list[int]]) -> None:
    folder, pids = dead
    assert _samples(folder)[IN_PROGRESS] == 3
    for left, pid in zip((2, 1, None), pids, strict=True):
        metric_files.bury(folder, pid)
        samples = _samples(folder)
        assert _is_complete(samples)
        assert samples.get(IN_PROGRESS) == left
    assert sorted(file.name for file in folder.iterdir()) == [
        "counter_dead-3.db",
        "gauge_max_dead-3.db",
        "histogram_dead-3.db",
    ]


def test_to_bury_twice_changes_nothing(dead: tuple[Path, list[int]]) -> None:
    folder, pids = dead
    for pid in (*pids, *pids, 4_000_000):
        metric_files.bury(folder, pid)
        assert _is_complete(_samples(folder))


def _bury_all(folder: Path, pids: Sequence[int]) -> None:
    for pid in pids:
        metric_files.bury(folder, pid)


class _Killed(Exception):
    """Stands for SIGKILL: nothing is cleaned up."""


@pytest.fixture(params=range(1, 15))
def killed_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every n-th change of a folder that a burial makes is the last that it makes."""
    step, left = int(request.param), [int(request.param)]

    def dying(name: str) -> Any:
        real = getattr(Path, name)

        def change(path: Path, *args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return real(path, *args, **kwargs)

        return change

    for name in ("rename", "unlink"):
        monkeypatch.setattr(Path, name, dying(name))
    return step


def test_whoever_is_killed_while_burying_loses_nothing_and_counts_nothing_twice(
    dead: tuple[Path, list[int]], killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pids = dead
    with pytest.raises(_Killed):
        _bury_all(folder, pids)
    assert _is_complete(_samples(folder)), f"after {killed_at} changes"
    monkeypatch.undo()
    for pid in pids:
        metric_files.bury(folder, pid)
        assert _is_complete(_samples(folder))
    assert len(list(folder.iterdir())) == 3


def test_a_reader_never_sees_part_of_a_burial(dead: tuple[Path, list[int]]) -> None:
    folder, pids = dead
    seen: list[Mapping[str, float]] = []
    started, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(_samples(folder))
            started.set()

    reader = threading.Thread(target=watch)
    reader.start()
    assert started.wait(10)
    for n in range(60):
        for kind in ("counter", "histogram"):  # a process with nothing in its files, so that the sum stays
            shutil.copy(_empty(folder.parent, kind), folder / f"{kind}_{5_000_000 + n}.db")
        metric_files.bury(folder, 5_000_000 + n)
        if n % 20 == 10:
            metric_files.bury(folder, pids[n // 20])
    ended.set()
    reader.join(10)
    assert len(seen) > 3
    assert all(_is_complete(samples) for samples in seen)


def _empty(folder: Path, kind: str) -> Path:
    file = folder / f"{kind}.empty"
    if not file.exists():
        MmapedDict(str(file)).close()
    return file


def test_a_file_that_a_process_has_only_begun_counts_nothing(dead: tuple[Path, list[int]]) -> None:
    folder, _ = dead
    (folder / "counter_77.db").touch()
    assert _is_complete(_samples(folder))
    metric_files.bury(folder, 77)
    assert _is_complete(_samples(folder))


def test_five_hundred_dead_processes_are_three_small_files(dead: tuple[Path, list[int]]) -> None:
    folder, pids = dead
    counters = folder / f"counter_{pids[0]}.db"
    for pid in range(6_000_000, 6_000_500):
        shutil.copy(counters, folder / f"counter_{pid}.db")
        metric_files.bury(folder, pid)
    for pid in pids:
        metric_files.bury(folder, pid)
    assert _samples(folder)[REQUESTS] == 12 + 500 * 3
    assert len(list(folder.iterdir())) == 3
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1 << 18


def test_the_parser_reads_what_is_left_of_them(dead: tuple[Path, list[int]]) -> None:
    folder, pids = dead
    for pid in pids:
        metric_files.bury(folder, pid)

    class _Files:
        def collect(self) -> Any:
            return metric_files.read(folder)

    registry = CollectorRegistry()
    registry.register(_Files())
    names = {family.name for family in text_string_to_metric_families(generate_latest(registry).decode())}
    own = CollectorRegistry()
    FrontMetrics(own)
    ModelMetrics(own)
    assert names <= {family.name for family in own.collect()}
    assert {"shoal_requests", "shoal_request_duration_seconds", "shoal_images"} <= names
