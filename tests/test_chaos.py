"""The bookkeeping of ``python -m chaos`` on records written by hand, and a short run of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chaos.journal import Journal
from chaos.load import Answered, Priority
from chaos.network import missing
from chaos.outcome import Outcome, Tally
from chaos.report import Results
from chaos.soak import Life
from shoal.client import Mode
from tests.clusters import eventually
from tests.consul_server import find_consul
from tests.needs import need

# The journal

PID, OTHER = os.getpid(), 1 << 22  # one that runs, and one beyond the most that Linux hands out
NODE = "worker1"


def line(message: str, pid: int = PID, **fields: Any) -> bytes:
    return json.dumps({"message": message, "pid": str(pid), **fields}).encode()


def begun(request: str, method: str = "POST", pid: int = PID) -> bytes:
    return line("begun", pid, method=method, path="/predict", request_id=request)


def ended(
    request: str,
    code: str = "ok",
    *,
    pid: int = PID,
    role: str = "front",
    subject: str = "alice",
    size: int | None = 100,
) -> bytes:
    return line(
        "request", pid, method="POST", request_id=request, code=code, role=role, subject=subject, **{"bytes": size}
    )


def submitted(job: str) -> bytes:
    return line("submitted", job=job)


def claimed(*jobs: str) -> bytes:
    return line("claimed", jobs=jobs)


def executed(*jobs: str, requests: Sequence[str] | None = None) -> bytes:
    return line("executed", jobs=jobs, request_ids=[f"r-{job}" for job in jobs] if requests is None else requests)


@dataclass(frozen=True)
class State:
    """What a journal says of the process, and of the node that it belongs to."""

    held: int = 0
    in_redis: int = 0
    under_way: int = 0
    done: int = 0
    images: int = 0
    executions: Mapping[str, int] = field(default_factory=dict)
    uploaded: int = 0
    refused: int = 0
    errors: int = 0


JOURNALS: dict[str, tuple[list[bytes], State]] = {
    "nothing": ([], State()),
    "a request is held until it has ended": ([begun("a"), begun("b")], State(held=2, under_way=2)),
    "an ended one is not": (
        [begun("a"), begun("b"), ended("a")],
        State(held=1, under_way=1, done=1, uploaded=100),
    ),
    "probes and lookups count for nothing": (
        [begun("a", "GET"), line("request", method="GET", request_id="a", code="ok")],
        State(),
    ),
    "another process's are its own": ([begun("a", pid=OTHER)], State(under_way=1)),
    "a job is in Redis until it is executed": ([submitted("j1"), submitted("j2")], State(in_redis=2)),
    "a claimed one is in both hands": ([submitted("j1"), claimed("j1")], State(held=1, in_redis=1)),
    "an executed batch is in none": (
        [submitted("j1"), submitted("j2"), claimed("j1", "j2"), executed("j1", "j2")],
        State(done=1, images=2, executions={"r-j1": 1, "r-j2": 1}),
    ),
    "executions are counted by request, whatever the job": (
        [executed("j1", requests=["r"]), executed("j2", requests=["r"]), executed("j3", requests=["s"])],
        State(done=3, images=3, executions={"r": 2, "s": 1}),
    ),
    "heartbeats are nobody's images": ([executed("j1", requests=["heartbeat"])], State(done=1)),
    "bytes that were refused are wasted": (
        [ended("a", size=300), ended("b", "queue_full", size=50), ended("c", "invalid_image", size=7)],
        State(done=3, uploaded=357, refused=50),
    ),
    "a head without a length has no bytes": ([ended("a", "queue_full", size=None)], State(done=1)),
    "what a gateway carried is no client's upload": (
        [ended("a", "queue_full", subject="gateway:g1"), ended("b", "queue_full", role="gateway")],
        State(done=2),
    ),
    "errors are kept": (
        [line("unexpected error", exc_info="Traceback"), line("the model raised"), b"Segmentation fault", b""],
        State(errors=4),
    ),
    "other messages are not": ([line("ready"), line("worker slow to report", worker="worker1")], State()),
}


def state(journal: Journal) -> State:
    return State(
        journal.held_by([PID]),
        journal.held_in_redis(NODE),
        journal.under_way(),
        journal.done[PID],
        journal.images[NODE],
        dict(journal.executions),
        journal.uploaded.all,
        journal.uploaded.refused,
        len(journal.errors),
    )


@pytest.mark.parametrize("case", JOURNALS)
def test_a_journal_adds_up(case: str, tmp_path: Path) -> None:
    lines, expected = JOURNALS[case]
    journal = Journal(tmp_path)
    journal.take(NODE, lines)
    assert state(journal) == expected


def test_a_journal_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    whole, cut = begun("a") + b"\n", begun("b") + b"\n"
    with closing(Journal(tmp_path)) as journal, (tmp_path / f"{NODE}.log").open("ab", buffering=0) as log:
        log.write(whole + cut[:20])
        journal.read()
        assert state(journal) == State(held=1, under_way=1)
        log.write(cut[20:-1])
        journal.read()
        assert state(journal) == State(held=1, under_way=1)
        log.write(cut[-1:])
        journal.read()
        journal.read()
        assert state(journal) == State(held=2, under_way=2)
        # And a node that comes later is followed as well
        (tmp_path / "worker2.log").write_bytes(begun("c") + b"\n")
        journal.read()
        assert (state(journal), journal.errors) == (State(held=3, under_way=3), [])


def test_a_journal_forgets_what_the_dead_held(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.take(NODE, [begun("a"), begun("b", pid=OTHER), ended("c", pid=OTHER), submitted("j"), executed("k")])
    journal.forget_dead()
    assert state(journal) == State(held=1, under_way=1, done=1, images=1, uploaded=100)
    assert journal.done[OTHER] == journal.held_by([OTHER]) == 0
    journal.forget()
    assert journal.uploaded.all == 0


# Outcomes and their report


def end(
    code: str = "ok",
    *,
    mode: Mode = "direct",
    priority: Priority = "interactive",
    right: bool = True,
    seconds: float = 0.1,
) -> Answered:
    return Answered(mode, priority, "r", 0.0, seconds, code, right=right and code == "ok", error=f"<{code}>")


def tally(*ends: Answered, may_refuse: bool = False) -> Tally:
    counted = Tally(may_refuse=may_refuse)
    counted.add(ends)
    return counted


def test_a_tally_counts_what_failed_and_what_was_wrong() -> None:
    counted = tally(end(), end(mode="proxy", seconds=2.0), end("bad_gateway"), end("bad_gateway"), end(right=False))
    assert counted.requests == {"direct": 4, "proxy": 1}
    assert counted.failures == {"direct bad_gateway": 2}
    assert (counted.wrong, counted.slowest, counted.refused) == (1, 2.0, 0)
    assert counted.examples == ["0.1 s: <bad_gateway>"] * 2


def test_a_full_queue_is_a_failure_unless_it_was_promised() -> None:
    full = [end("queue_full"), end("queue_full", mode="proxy")]
    assert (tally(*full).refused, tally(*full).failures.total()) == (0, 2)
    promised = tally(*full, end("not_ready"), may_refuse=True)
    assert (promised.refused, promised.failures) == (2, {"direct not_ready": 1})


def test_a_tally_keeps_the_latest_examples() -> None:
    assert tally(*(end(f"e{n}") for n in range(9))).examples == [f"0.1 s: <e{n}>" for n in range(4, 9)]


@pytest.mark.parametrize(
    ("ends", "executions", "most", "failed"),
    [
        ([end()], 1, 2, []),
        ([end()], 2, 2, []),
        ([end()], 3, 2, ["executions of one request at most 2"]),
        ([end()], 3, None, []),
        ([end(), end("internal")], 1, 2, ["0 failed"]),
        ([end(right=False)], 1, 2, ["every answer is its image's"]),
    ],
)
def test_what_every_scenario_promises(
    ends: list[Answered], executions: int, most: int | None, failed: list[str]
) -> None:
    outcome = Outcome("A fault", "of something", tally=tally(*ends), most_executions=executions)
    outcome.conclude(executions=most)
    assert [claim for claim, _, holds in outcome.checks if not holds] == failed
    assert outcome.holds is (not failed)


def outcome_of(name: str, *ends: Answered, recoveries: Sequence[float] = ()) -> Outcome:
    outcome = Outcome(name, "what was done", 3, 2, tally(*ends), list(recoveries), most_executions=1)
    outcome.conclude()
    return outcome


def facts(when: str) -> dict[str, str]:
    return {"model": "fake", "rate": "90", "share": "70%", "when": when, "machine": "2 cores"}


def test_a_report_is_rendered_kept_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results.load(path)
    results.add("front", outcome_of("Front", end(), end("internal", mode="proxy")), facts=facts("2026-01-01"))
    results.add("links", outcome_of("Links", end(), recoveries=[1.0, 2.0, 4.0]), facts=facts("2026-01-01"))
    results.save(path)
    page = results.page(["links", "front", "unknown"])
    assert Results.load(path).page(["links", "front", "unknown"]) == page
    assert page.index("| Links | 2 / 3 | 1 | 0 | 0 | 1 | 2.0 / 4.0 | yes |") < page.index("| Front |")
    assert "| Front | 2 / 3 | 2 | 1 | 0 | 1 | - | **no** |" in page
    assert "- requests: 1 direct, 1 proxy\n- 0 failed: 1 proxy internal **does not hold**" in page
    assert "- example: `0.1 s: <internal>`" in page
    assert "Run on 2026-01-01, 2 cores." in page

    # When one scenario is run again
    again = Results.load(path)
    again.add("front", outcome_of("Front", end(mode="proxy")), facts=facts("2026-01-02"))
    page = again.page(["front", "links"])
    assert "**no**" not in page
    assert "| Front | 2 / 3 | 1 | 0 | 0 | 1 | - | yes |" in page
    assert "| Links |" in page
    assert "Run on 2026-01-01 and 2026-01-02, 2 cores." in page


# The soak's lives

HOUR = 3600.0
FLAT = [50.0] * 120
GROWING = [50.0 + 10 * n / 120 for n in range(120)]
ONE_JUMP = [50.0] * 60 + [58.0] * 60


@pytest.mark.parametrize(
    ("memory", "slope"),
    [
        (FLAT, 0.0),
        (GROWING, 10.0),
        ([value + (n % 7) / 10 for n, value in enumerate(GROWING)], 10.0),
        ([value + (n % 7) / 10 for n, value in enumerate(FLAT)], 0.0),
        ([90.0, *FLAT[1:]], 0.0),
        ([60.0 - value / 10 for value in GROWING], -1.0),
        (FLAT[:1], 0.0),
        ([], 0.0),
    ],
)
def test_the_slope_of_a_memory(memory: list[float], slope: float) -> None:
    times = [HOUR * n / 120 for n in range(len(memory))]
    assert Life("front", times, memory).slope() == pytest.approx(slope, abs=0.5)


def test_one_jump_is_no_growth_where_a_mean_would_see_one() -> None:
    times = [HOUR * n / 120 for n in range(120)]
    early = Life("front", times, [50.0] * 12 + [58.0] * 108)
    assert early.slope() == 0.0
    assert Life("front", times, ONE_JUMP).after(HOUR / 2).slope() == 0.0


@pytest.mark.parametrize(
    ("files", "gained"),
    [
        ([10] * 9, 0),
        ([10, 11, 12, 13, 14, 15, 16, 17, 18], 6),
        ([10, 30, 10, 40, 10, 10, 50, 10, 60], 0),  # it is calm in between
        ([30, 20, 20, 20, 20, 20, 20, 10, 20], -10),
        ([7], 0),
    ],
)
def test_the_files_that_a_process_gains(files: list[int], gained: int) -> None:
    assert Life("front", [float(n) for n in range(len(files))], [1.0] * len(files), files).gained_files() == gained


def test_a_life_is_sampled_while_its_process_runs(tmp_path: Path) -> None:
    life = Life("this test")
    for now in (1.0, 2.0, 3.0):
        life.sample(os.getpid(), now)
    assert life.seconds == 2.0
    assert all(1 < memory < 10_000 for memory in life.memory)
    with (tmp_path / "more").open("wb"):
        for now in (4.0, 5.0, 6.0):
            life.sample(os.getpid(), now)
    assert life.gained_files() == 1
    life.sample(OTHER, 7.0)
    assert life.times == [1, 2, 3, 4, 5, 6]
    late = life.after(4.0)
    assert (late.times, len(late.memory), late.gained_files()) == ([4, 5, 6], 3, 0)
    assert life.after(100.0).seconds == 0.0


# The whole of it

PROMISES = (
    *("process", "front", "Redis", "supervisor", "worker", "gateway", "leader", "restart"),
    *("stop", "links", "consul", "consul-empty", "clients"),
)


@dataclass
class Run:
    """A ``python -m chaos``, and what of it is still there."""

    process: subprocess.Popen[bytes]
    output: Path
    folder: Path
    mark: str

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def is_under_load(self) -> bool:
        assert self.process.poll() is None, self.text
        return any(b'"submitted"' in path.read_bytes() for path in self.folder.glob("logs/*.log"))

    def processes(self) -> list[int]:
        """Those that it started, and those that they started: all have its mark in their environment."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self.mark in _read(path)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def chaos(folder: Path, *arguments: str) -> Iterator[Run]:
    reason, consul = missing(), find_consul()
    need(reason is None, str(reason))
    need(consul, "no Consul: tests/tools/consul.sh fetches one")
    output, mark = folder / "output", uuid.uuid4().hex
    environ = {**os.environ, "CONSUL_BIN": str(consul), "SHOAL_CHAOS_MARK": mark}
    command = [sys.executable, "-m", "chaos", "--short", "--keep", str(folder), *arguments]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environ) as process:
        try:
            yield Run(process, output, folder, mark)
        finally:
            process.terminate()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_short_run_loses_nothing(tmp_path: Path) -> None:
    with chaos(tmp_path, "--only", *PROMISES) as run:
        assert run.process.wait() == 0, run.text
        assert [name for name in PROMISES if f"{name}: holds" not in run.text] == []
        assert run.processes() == []  # and without a process there is no namespace


@pytest.mark.cluster
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_run_that_is_cut_short_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with chaos(tmp_path, "--only", "process") as run:
        eventually(run.is_under_load, within=90, what="a job under load")
        assert len(run.processes()) > 20
        run.process.send_signal(number)
        assert run.process.wait(60) != 0
        eventually(lambda: not run.processes(), within=30, what="the end of every process")
