"""The load tests: their sums, and Locust itself against a real cluster and against gateways that misbehave."""

from __future__ import annotations

import argparse
import asyncio
import csv
import math
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from loadtest import pictures, profiles
from loadtest.options import add_options, load_of, plan_of
from loadtest.profiles import Profile
from loadtest.tally import Tally
from loadtest.thresholds import Failures, Outcome, Thresholds, check, percentile, share, verdict
from tests.clusters import Cluster
from tests.consul_server import free_port

ROOT = Path(__file__).parents[1]
LOCUST_SECONDS = 60.0

# Shapes

LEVELS: list[tuple[str, Profile, dict[float, float]]] = [
    ("constant", profiles.constant(7), {0: 7, 1e6: 7}),
    ("ramp", profiles.ramp(100, 10, base=0), {0: 0, 2.5: 25, 9.9: 99, 10: 0}),
    ("ramp from a base", profiles.ramp(100, 10, base=50), {0: 50, 5: 75, 10: 0}),
    ("ramp down", profiles.ramp(10, 10, base=100), {0: 100, 5: 55}),
    ("steps", profiles.steps(50, 10, 5), {0: 10, 1.9: 10, 2: 20, 5: 30, 9.9: 50, 10: 0}),
    ("spike", profiles.spike(90, 30, base=9, at=10, length=5), {0: 9, 9.9: 9, 10: 90, 14.9: 90, 15: 9, 30: 0}),
    ("spike past the end", profiles.spike(90, 30, base=9, at=28, length=5), {27: 9, 28: 90, 30: 0}),
    ("soak", profiles.soak(40, 100, rise=10), {0: 0, 5: 20, 10: 40, 99: 40, 100: 0}),
    ("origin", profiles.origin(500, 0.05), {0: 20, 24.9: 20, 25: 0}),
]

ARRIVALS: list[tuple[str, Profile, float]] = [
    ("constant", profiles.constant(150, 60), 9000),
    ("without end", profiles.constant(150), math.inf),
    ("a fraction", profiles.constant(1.5, 1), 2),
    ("ramp", profiles.ramp(100, 10, base=0), 500),
    ("ramp down", profiles.ramp(10, 10, base=100), 550),
    ("steps", profiles.steps(50, 10, 5), 300),
    ("spike", profiles.spike(90, 30, base=9, at=10, length=5), 675),
    ("soak", profiles.soak(40, 100, rise=10), 3800),
    ("origin", profiles.origin(500, 0.05), 500),
    ("a short origin", profiles.origin(50, 0.02), 50),
    ("an odd origin", profiles.origin(7, 0.3), 7),
]


@pytest.mark.parametrize(("profile", "levels"), [row[1:] for row in LEVELS], ids=[row[0] for row in LEVELS])
def test_the_level_at_each_moment(profile: Profile, levels: dict[float, float]) -> None:
    assert {time: profile.level(time) for time in levels} == pytest.approx(levels)
    assert profile.peak == pytest.approx(max(part.last for part in profile.stretches), abs=100)


@pytest.mark.parametrize(("profile", "count"), [row[1:] for row in ARRIVALS], ids=[row[0] for row in ARRIVALS])
def test_the_arrivals_of_a_profile(profile: Profile, count: float) -> None:
    assert profile.arrivals() == count
    last = 10_000 if math.isinf(count) else int(count)
    times = [profile.due(number) for number in range(last)]
    assert times[0] == 0
    assert None not in times
    dues = [time for time in times if time is not None]
    assert dues == sorted(dues)
    assert dues[-1] < profile.seconds
    assert (profile.due(last) is None) == math.isfinite(count)


@pytest.mark.parametrize("profile", [row[1] for row in ARRIVALS], ids=[row[0] for row in ARRIVALS])
@pytest.mark.parametrize("until", [0, 0.31, 0.95, 7.77, 12.34])
def test_what_is_due_before_a_moment_is_what_is_counted_until_then(profile: Profile, until: float) -> None:
    due = 0
    while (time := profile.due(due)) is not None and time < until:
        due += 1
    assert profile.arrivals(until) == due


def test_the_origins_requests_are_a_twentieth_of_a_second_apart() -> None:
    origin = profiles.origin(500, 0.05)
    assert [origin.due(number) for number in (0, 1, 20, 499)] == pytest.approx([0, 0.05, 1.0, 24.95])


def test_a_profile_travels_as_rows() -> None:
    spike = profiles.spike(90, 30, base=9, at=10, length=5)
    assert Profile.of(spike.rows) == spike


# Options


class Parser(argparse.ArgumentParser):
    """Without what Locust adds to argparse."""

    locusts = ("env_var", "include_in_web_ui")

    def add_argument(self, *names: str, **settings: Any) -> Any:
        return super().add_argument(*names, **{k: v for k, v in settings.items() if k not in self.locusts})


def test_the_key_is_not_on_locusts_page() -> None:
    shown: list[str] = []

    class Shown(Parser):
        def add_argument(self, *names: str, **settings: Any) -> Any:
            shown.extend(names if settings.get("include_in_web_ui", True) else ())
            return super().add_argument(*names, **settings)

    add_options(Shown())
    assert "--gateway" in shown
    assert "--api-key" not in shown


def options(line: str = "", **locust: object) -> argparse.Namespace:
    parser = Parser()
    add_options(parser)
    own = {"host": None, "num_users": None, "run_time": None, **locust}
    return argparse.Namespace(**vars(parser.parse_args(line.split())), **own)


@pytest.mark.parametrize(
    ("line", "locust", "profile", "users", "loop"),
    [
        ("", {}, None, 1, "closed"),
        ("", {"num_users": 8}, None, 8, "closed"),
        ("--rate 150", {}, profiles.constant(150), 600, "open"),
        ("--rate 150", {"run_time": 60, "num_users": 5}, profiles.constant(150, 60), 5, "open"),
        ("--rate 1", {}, profiles.constant(1), 10, "open"),
        ("--shape ramp", {"num_users": 20}, profiles.ramp(20, 60, base=0), 20, "closed"),
        ("--shape ramp --rate 30 --base 3", {"run_time": 9}, profiles.ramp(30, 9, base=3), 120, "open"),
        ("--shape steps --steps 3", {"num_users": 9, "run_time": 6}, profiles.steps(9, 6, 3), 9, "closed"),
        ("--shape spike --rate 60", {}, profiles.spike(60, 60, base=6, at=20, length=10), 240, "open"),
        ("--shape soak", {"num_users": 4}, profiles.soak(4, 3600, rise=60), 4, "closed"),
        ("--shape origin", {}, profiles.origin(500, 0.05), 500, "open"),
    ],
)
def test_options_become_a_load(
    line: str, locust: dict[str, Any], profile: Profile | None, users: int, loop: str
) -> None:
    parsed = options(f"--gateway http://a {line}", **locust)
    load = load_of(parsed)
    assert (load.profile, load.users, plan_of(parsed).loop) == (profile, users, loop)


def test_options_become_a_plan() -> None:
    plan = plan_of(options("--gateway http://a/,http://b --models x,y --sizes 320x240,64x48 --max-failures 1%"))
    assert plan.gateways == ["http://a", "http://b"]
    assert plan.models == ["x", "y"]
    assert plan.sizes == [(320, 240), (64, 48)]
    assert plan.thresholds == Thresholds(Failures(None, 0.01))


def test_options_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="no gateway"):
        plan_of(options())
    with pytest.raises(ValueError, match="needs its peak"):
        load_of(options("--shape ramp"))


@pytest.mark.parametrize(
    "line",
    [
        *("--sizes 640", "--sizes 0x5", "--rate 0", "--rate -1", "--rate nan", "--count 0", "--gateway host:80"),
        *(
            "--max-failures some",
            "--max-refused 2",
            "--max-refused 200%",
            "--timeout 0",
            "--shape star",
            "--mode cloud",
        ),
    ],
)
def test_options_that_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(line)
    assert f"argument {line.split()[0]}" in capsys.readouterr().err


# Thresholds


def outcome(answered: int = 95, failed: int = 0, refused: int = 5, dropped: int = 0, **more: Any) -> Outcome:
    tally = Tally(launched=answered + failed + refused, dropped=dropped, seconds=10.0)
    return Outcome(answered, failed, refused, more.pop("histogram", {100: 94, 900: 6}), tally, **more)


@pytest.mark.parametrize(
    ("seen", "thresholds", "failing"),
    [
        (outcome(), Thresholds(), []),
        (outcome(answered=0, refused=0), Thresholds(), ["requests"]),
        (outcome(failed=1), Thresholds(), ["failures"]),
        (outcome(failed=1), Thresholds(Failures(1)), []),
        (outcome(failed=2), Thresholds(Failures(1)), ["failures"]),
        (outcome(answered=93, failed=2), Thresholds(Failures(None, 0.02)), []),
        (outcome(answered=92, failed=3), Thresholds(Failures(None, 0.02)), ["failures"]),
        (outcome(dropped=1), Thresholds(), ["failures"]),
        (outcome(exceptions=1), Thresholds(), ["failures"]),
        (outcome(), Thresholds(p95=0.9), []),
        (outcome(), Thresholds(p95=0.89), ["p95"]),
        (outcome(answered=0, refused=100, histogram={}), Thresholds(p95=9), ["p95"]),
        (outcome(), Thresholds(goodput=9.5), []),
        (outcome(), Thresholds(goodput=9.6), ["goodput"]),
        (outcome(), Thresholds(refused=0.05), []),
        (outcome(), Thresholds(refused=0.04), ["refused"]),
        (outcome(due=100), Thresholds(), []),
        (outcome(due=101), Thresholds(), ["arrivals"]),
        (outcome(lost_processes=1), Thresholds(), ["processes"]),
    ],
)
def test_what_passes_and_what_fails(seen: Outcome, thresholds: Thresholds, failing: list[str]) -> None:
    checks = list(check(seen, thresholds))
    assert [line.name for line in checks if not line.passed] == failing
    assert verdict(seen, checks).count("FAIL") == len(failing)


@pytest.mark.parametrize(
    ("histogram", "fraction", "value"),
    [({5: 1}, 0.95, 5), ({1: 95, 9: 5}, 0.95, 1), ({1: 94, 9: 6}, 0.95, 9), ({9: 1, 1: 1}, 0.5, 1)],
)
def test_percentile(histogram: dict[float, int], fraction: float, value: float) -> None:
    assert percentile(histogram, fraction) == value


def test_a_share_is_a_number_or_a_percentage() -> None:
    assert [share("0.05"), share("5%"), share("1")] == pytest.approx([0.05, 0.05, 1])


def test_tallies_are_put_together() -> None:
    one, other = Tally(), Tally(dropped=2)
    one.saw_launch(0.001)
    one.saw_launch(0.5)
    one.saw_request(10.0, 11.0)
    one.saw_request(10.5, 14.0)
    other.saw_request(99.0, 101.0)
    assert Tally.merged([one.report(), other.report()]) == Tally(2, 2, 1, 0.5, 4.0)


# Pictures


@pytest.mark.parametrize("module", ["options", "profiles", "tally", "thresholds", "pictures"])
def test_the_sums_need_no_locust(module: str) -> None:
    script = f"import loadtest.{module}, sys; print('locust' in sys.modules, 'gevent' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


def test_pictures_are_distinct_and_always_the_same() -> None:
    made = pictures.make([(64, 48), (48, 64)], 5)
    assert len({picture.data for picture in made}) == len({picture.name for picture in made}) == 10
    assert made == pictures.make([(64, 48), (48, 64)], 5)


def test_pictures_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        pictures.read(tmp_path)
    (tmp_path / "b.JPG").write_bytes(b"b")
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "notes.txt").write_bytes(b"")
    assert [picture.data for picture in pictures.read(tmp_path)] == [b"a", b"b"]


# Locust


@dataclass(frozen=True)
class Ran:
    """What a Locust process left: its exit code, its output, and its CSV files."""

    code: int
    output: str
    folder: Path

    def rows(self, report: str = "stats") -> list[dict[str, str]]:
        with (self.folder / f"report_{report}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def count(self, kind: str, name: str) -> int:
        return sum(int(row["Request Count"]) for row in self.rows() if (row["Type"], row["Name"]) == (kind, name))

    def failures(self) -> set[str]:
        return {row["Error"] for row in self.rows("failures")}

    def said(self, pattern: str) -> list[int]:
        """The numbers that ``pattern`` matches in the verdict."""
        found = re.search(pattern, self.output)
        assert found, self.output
        return [int(number) for number in found.groups()]


async def locust(folder: Path, *arguments: str, gateway: str | None = None, api_key: str = "", csv: bool = True) -> Ran:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "LOCUST_"))}
    if gateway:
        environ |= {"SHOAL_GATEWAY": gateway, "SHOAL_API_KEY": api_key}
    own = ("--csv", str(folder / "report"), "--html", str(folder / "report.html")) if csv else ()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"),
        *("--pictures", "4", *own, *arguments),
        cwd=ROOT,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LOCUST_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, output.decode(), folder)


async def on_cluster(cluster: Cluster, folder: Path, line: str, *, csv: bool = True) -> Ran:
    return await locust(folder, *line.split(), gateway=cluster.gateway, api_key=cluster.api_key, csv=csv)


@pytest.mark.cluster
async def test_a_closed_loop_of_both_users(cluster: Cluster, tmp_path: Path) -> None:
    ran = await on_cluster(cluster, tmp_path, "-u 4 -r 4 -t 2 --models fake --sizes 64x48,80x60 --priority bulk")
    assert ran.code == 0, ran.output
    for size in ("64x48", "80x60"):
        whole = ran.count("DIRECT", f"lookup+upload {size}")
        assert whole == ran.count("GET", f"lookup {size}") == ran.count("POST", f"upload {size}") > 0
        assert ran.count("PROXY", f"predict {size}") > 0
    [answered] = ran.said(r"Load test: (\d+) answered, 0 refused, 0 failed")
    counts = [int(row["Request Count"]) for row in ran.rows() if row["Type"] in ("DIRECT", "PROXY")]
    assert (len(counts), sum(counts)) == (4, answered)
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.cluster
async def test_an_open_loop_keeps_its_rate_and_thresholds_fail_it(cluster: Cluster, tmp_path: Path) -> None:
    ran = await on_cluster(cluster, tmp_path, "--rate 40 -t 2 -u 40 --mode proxy --max-p95 0.000001 --min-goodput 1")
    assert ran.said(r"Open loop: (\d+) arrivals due, (\d+) launched, (\d+) dropped") == [80, 80, 0]
    assert ran.count("PROXY", "predict") == 80
    assert re.search(r"p95 .* FAIL", ran.output)
    assert re.search(r"goodput .* pass", ran.output)
    assert ran.code == 1


@pytest.mark.cluster
async def test_the_origins_stress_test(cluster: Cluster, tmp_path: Path) -> None:
    ran = await on_cluster(cluster, tmp_path, "--shape origin --count 50 --interval 0.02 --max-p95 30 --max-refused 0")
    assert ran.said(r"Open loop: (\d+) arrivals due, (\d+) launched, (\d+) dropped") == [50, 50, 0]
    assert ran.count("PROXY", "predict") + ran.count("DIRECT", "lookup+upload") == 50
    assert ran.code == 0, ran.output


@pytest.mark.cluster
async def test_a_closed_loop_follows_its_shape(cluster: Cluster, tmp_path: Path) -> None:
    ran = await on_cluster(cluster, tmp_path, "--shape steps --steps 2 -u 4 -t 2 --wait 0.05", csv=False)
    assert re.findall(r"Shape test updating to (\d+) users", ran.output) == ["2", "4"]
    assert ran.code == 0, ran.output


@pytest.mark.cluster
async def test_a_master_and_two_workers_are_one_test(cluster: Cluster, tmp_path: Path) -> None:
    port = str(free_port())
    line = (
        "--rate",
        "30",
        "-t",
        "2",
        "--sizes",
        "64x48",
        "--master",
        "--expect-workers",
        "2",
        "--master-bind-port",
        port,
    )
    workers = [locust(tmp_path, "--worker", "--master-port", port, csv=False) for _ in range(2)]
    ran, *sent = await asyncio.gather(
        locust(tmp_path, *line, gateway=cluster.gateway, api_key=cluster.api_key),
        *workers,
    )
    assert ran.code == 0, ran.output
    assert ran.said(r"Open loop: (\d+) arrivals due, (\d+) launched, (\d+) dropped") == [60, 60, 0]
    assert ran.said(r"Load test: (\d+) answered") == [60]
    assert ran.count("PROXY", "predict") + ran.count("DIRECT", "lookup+upload") == 60
    assert ran.output.count("Load test:") == 1
    assert all("Load test:" not in worker.output and worker.code == 0 for worker in sent)


@asynccontextmanager
async def gateway(predict: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A gateway of one handler."""
    app = web.Application()
    app.router.add_post("/predict", predict)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


def answer(label: str) -> web.Response:
    prediction = {"label": label, "index": 0, "probability": 0.5}
    names = {"model": "fake", "version": "1", "worker": "w", "request_id": "r"}
    return web.json_response({"success": True, "predictions": [prediction], **names})


async def test_a_wrong_answer_is_noticed(tmp_path: Path) -> None:
    served = 0

    async def predict(request: web.Request) -> web.Response:
        nonlocal served
        served += 1
        return answer("cat" if served != 7 else "dog")

    async with gateway(predict) as url:
        line = "-u 1 -t 1 --mode proxy --wait 0.02 --sizes 64x48"
        ran = await locust(tmp_path, *line.split(), gateway=url)
    assert served > 7
    assert ran.failures() == {"wrong_answer"}
    assert ran.said(r"Load test: \d+ answered, 0 refused, (\d+) failed") == [1]
    assert ran.code == 1


async def test_two_processes_tell_of_every_request_that_was_answered(tmp_path: Path) -> None:
    served = 0

    async def predict(request: web.Request) -> web.Response:
        nonlocal served
        await asyncio.sleep(0.9)  # longer than a master waits for the last reports of workers that quit
        served += 1
        return answer("cat")

    async with gateway(predict) as url:
        line = "-u 6 -r 6 -t 2 --mode proxy --processes 2 --sizes 64x48"
        ran = await locust(tmp_path, *line.split(), gateway=url)
    assert ran.code == 0, ran.output
    assert ran.said(r"Load test: (\d+) answered") == [served]
    assert ran.count("PROXY", "predict") == served > 6


async def test_errors_are_named_by_their_code_and_may_be_few(tmp_path: Path) -> None:
    served = 0

    async def predict(request: web.Request) -> web.Response:
        nonlocal served
        served += 1
        if served == 2:
            return web.json_response({"success": False, "error": {"code": "draining", "message": ""}}, status=503)
        if served == 3:
            request.transport.close()  # type: ignore[union-attr]
        return answer("cat") if served != 4 else web.Response(text="hello")

    async with gateway(predict) as url:
        line = "-u 1 -t 1 --mode proxy --wait 0.02 --sizes 64x48 --max-failures 3"
        ran = await locust(tmp_path, *line.split(), gateway=url)
    assert ran.failures() == {"draining", "connection_failed", "bad_gateway"}
    assert ran.code == 0, ran.output


async def test_a_refused_user_waits_as_long_as_it_was_told(tmp_path: Path) -> None:
    served = 0

    async def predict(request: web.Request) -> web.Response:
        nonlocal served
        served += 1
        body = {"success": False, "error": {"code": "queue_full", "message": ""}}
        return web.json_response(body, status=429, headers={"Retry-After": "30"})

    async with gateway(predict) as url:
        line = "-u 2 -r 2 -t 1 --mode proxy --sizes 64x48"
        ran = await locust(tmp_path, *line.split(), gateway=url)
        assert served == 2
        assert ran.count("REFUSED", "predict") == 2
        assert ran.said(r"(\d+) answered, (\d+) refused, (\d+) failed") == [0, 2, 0]
        assert ran.code == 0, ran.output
        again = await locust(tmp_path, *line.split(), "--max-refused", "50%", gateway=url, csv=False)
    assert re.search(r"refused .* FAIL", again.output)
    assert again.code == 1


async def test_an_arrival_that_finds_no_free_user_is_dropped_and_counted(tmp_path: Path) -> None:
    async def predict(request: web.Request) -> web.Response:
        await asyncio.sleep(0.7)
        return answer("cat")

    async with gateway(predict) as url:
        line = "--rate 20 -t 1 -u 3 --mode proxy --sizes 64x48"
        ran = await locust(tmp_path, *line.split(), gateway=url)
    due, launched, dropped = ran.said(r"Open loop: (\d+) arrivals due, (\d+) launched, (\d+) dropped")
    assert (due, launched, dropped) == (20, 6, 14)
    assert ran.count("DROPPED", "arrival") == dropped
    assert ran.count("PROXY", "predict") == launched
    assert ran.failures() == {"no_free_user"}
    assert ran.code == 1


def test_an_arrival_that_blocks_makes_no_other_late_by_the_schedule() -> None:
    script = """
import time
from loadtest.arrivals import Pacer
from loadtest.profiles import constant
dues = []
def launch(due):
    dues.append(due)
    if len(dues) == 3:
        time.sleep(0.2)
Pacer(constant(100, 0.4), 1, 2, launch).run()
print(*(round(due - dues[0], 6) for due in dues))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [float(word) for word in ran.stdout.split()] == pytest.approx([0.02 * number for number in range(20)])


async def test_no_folder_of_images(tmp_path: Path) -> None:
    line = f"-t 1 --mode proxy --images {tmp_path / 'missing'}"
    ran = await locust(tmp_path, *line.split(), gateway="http://127.0.0.1:9", csv=False)
    assert "No such file" in ran.output
    assert ran.code == 1


async def test_nothing_to_load(tmp_path: Path) -> None:
    ran = await locust(tmp_path, "-t", "1")
    assert "no gateway" in ran.output
    assert ran.code == 1
    ran = await locust(tmp_path, "-t", "1", gateway="http://127.0.0.1:9")
    assert ran.failures() == {"connection_failed"}
    assert ran.code == 1
