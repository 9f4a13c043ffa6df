"""``shoal up``: one line of JSON, clusters side by side, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.client import Mode
from tests.clusters import eventually, is_running, up
from tests.consul_server import has_ipv6
from tests.needs import need
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

PLACES = {"discovery", "repository"}
ROLES = {"gateway", "worker", "front", "model", "courier", "redis"}


@pytest.fixture
def scratch() -> Iterator[dict[str, str]]:
    """An environment whose temporary files can be seen; pytest's own folders are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield {"TMPDIR": folder}


def left_in(scratch: dict[str, str]) -> list[str]:
    return [path.name for path in Path(scratch["TMPDIR"]).iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_is_left_behind(scratch: dict[str, str], number: signal.Signals) -> None:
    with up("--workers", "2", "--gateways", "2", "--model", "fake", environ=scratch) as cluster:
        assert set(cluster.document) == {
            "gateway",
            "gateways",
            "workers",
            "internal_urls",
            "models",
            "api_key",
            "pids",
            "control",
            *PLACES,
        }
        assert {role: len(pids) for role, pids in cluster.document["pids"].items()} == dict.fromkeys(ROLES, 2)
        assert all(is_running(pid) for pid in cluster.all_pids())
        assert left_in(scratch)
        cluster.process.send_signal(number)
        code = cluster.process.wait(30)
        assert code == (-9 if number == signal.SIGKILL else 0)
        eventually(lambda: not any(is_running(pid) for pid in cluster.all_pids()), within=5, what="all ends")
        eventually(lambda: not left_in(scratch), within=10, what=f"an empty folder, not {left_in(scratch)}")


def test_a_second_signal_stops_at_once(scratch: dict[str, str]) -> None:
    with up("--workers", "1", "--model", "fake", "--worker-setting", "grace=60", environ=scratch) as cluster:
        cluster.process.send_signal(signal.SIGTERM)
        eventually(lambda: cluster.log(message="draining", role="launcher"), within=5, what="the first signal")
        cluster.process.send_signal(signal.SIGTERM)
        assert cluster.process.wait(5) == 128 + signal.SIGTERM
        eventually(lambda: not any(is_running(pid) for pid in cluster.all_pids()), within=5, what="all ends")
        eventually(lambda: not left_in(scratch), within=10, what="an empty folder")


def test_ctrl_c_in_a_terminal_reaches_the_launcher_alone() -> None:
    """A terminal signals a whole process group; the services would take the launcher's SIGTERM for a second signal."""
    with up("--workers", "1", "--model", "fake") as cluster:
        groups = {os.getpgid(pid) for pid in cluster.all_pids()}
        assert os.getpgid(cluster.process.pid) not in groups
        assert len(groups) == len(cluster.all_pids())


def test_stopped_while_it_starts(scratch: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "shoal.cli", "up", "--json", "--model", "fake"],
        stdout=subprocess.PIPE,
        env=os.environ | scratch,
    ) as process:
        eventually(lambda: left_in(scratch), within=20, what="a start")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, b"")
    eventually(lambda: not left_in(scratch), within=10, what="an empty folder")


def test_clusters_side_by_side() -> None:
    with up("--workers", "1", "--model", "fake") as one, up("--workers", "1", "--model", "fake?size=48") as two:
        assert one.gateway != two.gateway
        with one.client() as first, two.client() as second:
            assert first.predict(photo(1)).predictions[0].label == fake_label(photo(1))
            assert second.predict(photo(1)).predictions[0].label != fake_label(photo(1))
            assert len(first.status()["workers"]) == len(second.status()["workers"]) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "resnet-9000"], "unknown model 'resnet-9000'"),
        (["--model", "fake?speed=1"], "speed"),
        (["--model", "fake", "--worker-setting", "capacity=0"], "capacity"),
        (["--model", "fake", "--gateway-setting", "colour=red"], "colour"),
        (["--model", "fake", "--discovery", "etcd://nowhere"], "discovery"),
    ],
)
def test_what_cannot_start_says_why(scratch: dict[str, str], arguments: list[str], complaint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shoal.cli", "up", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | scratch,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert complaint in done.stderr
    eventually(lambda: not left_in(scratch), within=10, what="an empty folder")


def test_status_and_predict_from_the_command_line(tmp_path: Path) -> None:
    with up("--workers", "1", "--model", "fake") as cluster:
        environ = os.environ | {"SHOAL_GATEWAY": cluster.gateway, "SHOAL_API_KEY": cluster.api_key}
        files = []
        for seed in range(5):
            files.append(tmp_path / f"{seed}.jpg")
            files[-1].write_bytes(photo(seed))
        (tmp_path / "notes.txt").write_text("not an image")

        def shoal(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "shoal.cli", *arguments]
            return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)

        for way in ("--direct", "--proxy"):
            done = shoal("predict", way, "--json", *map(str, files))
            assert done.returncode == 0, done.stderr
            answers = {answer["file"]: answer for answer in map(json.loads, done.stdout.splitlines())}
            for file in files:
                assert answers[str(file)]["predictions"][0]["label"] == fake_label(file.read_bytes())
                assert f"--{answers[str(file)]['path']}" == way
        done = shoal("predict", str(files[0]), str(tmp_path / "notes.txt"), str(tmp_path / "absent.jpg"))
        assert done.returncode == 1
        assert "unsupported_image" in done.stdout
        assert "unreadable_file" in done.stdout
        assert fake_label(files[0].read_bytes()) in done.stdout
        assert "worker1" in shoal("status").stdout
        assert json.loads(shoal("status", "--json").stdout)["workers"][0]["state"] == "ready"
        wrong = subprocess.run(
            [sys.executable, "-m", "shoal.cli", "status"],
            capture_output=True,
            text=True,
            env=environ | {"SHOAL_API_KEY": "shoal_wrong"},
            timeout=60,
            check=False,
        )
        assert wrong.returncode == 1
        assert "invalid_key" in wrong.stderr


def test_a_cluster_on_ipv6() -> None:
    need(has_ipv6(), "this machine has no IPv6 loopback")
    flags = [f"--{role}-setting={name}=::1" for role in ("gateway", "worker") for name in ("host", "internal-host")]
    with up("--workers", "1", "--model", "fake", *flags) as cluster:
        assert cluster.gateway.startswith("http://[::1]:")
        modes: tuple[Mode, ...] = ("direct", "proxy")
        for mode in modes:
            with cluster.client(mode) as client:
                assert client.predict(photo(1)).predictions[0].label == fake_label(photo(1))
