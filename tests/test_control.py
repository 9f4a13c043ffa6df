"""Nodes are kept running, drained on request, and restarted in turn without one failed request."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shoal import AsyncClient, cli, launcher, operations, sockets, tickets
from shoal.client import Mode
from shoal.launcher import DidNotStart, Node, Plan, Running
from shoal.processes import Child
from shoal.settings import InvalidSettings, WorkerSettings
from tests.clusters import eventually_async, is_running, up
from tests.photos import fake_label, photo

STEADY = "fake?seconds_per_execution=0.02&max_batch_size=8"
QUICK = {"grace": 0}


@pytest.fixture
def folder() -> Iterator[Path]:
    """pytest's own folders are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        yield Path(name)


async def ask(path: Path, method: str, call: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.request(method, f"http://admin{call}") as response,
    ):
        return response.status, await response.json()


async def shoal(*arguments: str, control: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shoal.cli", *arguments, "--control", str(control)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    return process.returncode or 0, output.decode(), complaint.decode()


def client_of(running: Running, mode: Mode = "direct") -> AsyncClient:
    return AsyncClient(",".join(running.gateways), api_key=running.api_key, mode=mode, timeout=20)


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def check_answer(running: Running) -> None:
    async with client_of(running) as client:
        assert (await client.predict(photo(1))).predictions[0].label == fake_label(photo(1))


# The whole cluster


@pytest.mark.cluster
@pytest.mark.timeout(300)
async def test_a_rolling_restart_under_load_fails_nothing() -> None:
    """Given steady load in both modes, when every node is restarted in turn, then every answer is right."""
    answered = {"direct": 0, "proxy": 0}
    with up("--workers", "3", "--gateways", "2", "--model", STEADY) as cluster:
        control = Path(cluster.document["control"])
        stop = asyncio.Event()

        async def keep_asking(mode: Mode, seed: int) -> None:
            async with cluster.async_client(mode) as client:
                while not stop.is_set():
                    seed += 1
                    answer = await client.predict(photo(seed % 500))
                    assert answer.predictions[0].label == fake_label(photo(seed % 500))
                    answered[mode] += 1

        async with asyncio.TaskGroup() as group:
            modes: tuple[Mode, ...] = ("direct", "proxy")
            for mode in modes:
                for number in range(3):
                    group.create_task(keep_asking(mode, number * 100))
            code, output, complaint = await shoal("restart", "--rolling", control=control)
            stop.set()
        assert (code, complaint) == (0, "")
        assert "restarted 5 of 5 nodes" in output
        assert min(answered.values()) > 50, answered
        nodes = (await ask(control / "launcher.sock", "GET", "/nodes"))[1]["nodes"]
        assert [node["state"] for node in nodes] == ["ready"] * 5
        now = {pid for node in nodes for pids in node["pids"].values() for pid in pids}
        assert now.isdisjoint(cluster.all_pids())
        assert len(now) == len(cluster.all_pids())
        assert not any(is_running(pid) for pid in cluster.all_pids())
        assert not cluster.log(message="connection to worker broke")
        assert not cluster.log(level="ERROR")


@pytest.mark.cluster
async def test_a_draining_gateway_finishes_what_runs_and_sends_its_clients_away() -> None:
    plan = Plan(workers=1, models=("fake?seconds_per_execution=1.5",), worker_settings=QUICK)
    async with launcher.cluster(plan) as running, aiohttp.ClientSession() as session:
        url, gateway = running.gateways[0], running.node("gateway1")
        headers = {"Authorization": f"Bearer {running.api_key}"}

        async def predict() -> int:
            async with session.post(f"{url}/predict", data=photo(1), headers=headers) as response:
                assert response.headers["Connection"] == "close"
                return response.status

        async def is_waiting() -> bool:
            async with session.get(f"{running.workers[0]['internal_url']}/load") as response:
                return bool(next(iter((await response.json())["models"].values()))["queue_depth"] == 1)

        async with session.get(f"{url}/readyz") as response:
            assert (response.status, response.headers.get("Connection")) == (200, None)
        slow = asyncio.create_task(predict())
        await eventually_async(is_waiting, within=10, what="a request under way")
        await ask(running.control_folder / "gateway1.sock", "POST", "/drain")
        async with session.get(f"{url}/readyz") as response:
            assert (response.status, response.headers.get("Connection")) == (503, "close")
        assert await slow == 200

        async def is_down() -> bool:
            return gateway.state == "down"

        await eventually_async(is_down, within=10, what="the end of the gateway")
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{url}/readyz")


@pytest.mark.cluster
async def test_what_dies_is_started_again_where_its_clients_know_it() -> None:
    plan = Plan(workers=1, gateways=1, models=("fake",), worker_settings=QUICK, gateway_settings=QUICK)
    async with launcher.cluster(plan) as running:
        before, gateways = running.pids, running.gateways
        for name, role in (("gateway1", "gateway"), ("worker1", "worker")):
            os.kill(before[role][0], signal.SIGKILL)
            instance = running.node(name)

            async def came_back(instance: Any = instance) -> bool:
                return bool(instance.restarts == 1 and instance.state == "ready")

            await eventually_async(came_back, within=30, what=f"{instance} again")
        assert running.gateways == gateways
        assert {role: len(pids) for role, pids in running.pids.items()} == dict.fromkeys(before, 1)
        assert not any(set(running.pids[role]) & set(before[role]) for role in before)
        await check_answer(running)


@pytest.mark.cluster
async def test_the_launcher_knows_the_processes_that_a_worker_started_again() -> None:
    async with launcher.cluster(Plan(workers=1, models=("fake",), worker_settings=QUICK)) as running:
        worker = running.node("worker1")
        before = dict(worker.pids)
        for role in ("front", "model", "courier", "redis"):
            os.kill(before[role][0], signal.SIGKILL)

            async def replaced(role: str = role) -> bool:
                return len(worker.pids[role]) == 1 and worker.pids[role] != before[role]

            await eventually_async(replaced, within=20, what=f"another {role}")
        assert worker.pids["worker"] == before["worker"]
        assert worker.restarts == 0
        shown = (await ask(running.control_folder / "worker1.sock", "GET", "/state"))[1]
        assert shown["pids"] == worker.pids


@pytest.mark.cluster
async def test_a_drained_node_stays_down_until_it_is_restarted_by_name() -> None:
    async with launcher.cluster(Plan(workers=2, gateways=1, models=("fake",), gateway_settings=QUICK)) as running:
        control = running.control_folder
        code, output, _ = await shoal("drain", "worker1", control=control)
        assert code == 0
        assert re.fullmatch(r"worker1 is draining… ended after \d+\.\d s\n", output)
        worker = running.node("worker1")

        async def is_down() -> bool:
            return worker.state == "down"

        await eventually_async(is_down, within=5, what="the launcher notices")
        assert worker.pids == {}
        await check_answer(running)
        assert (await shoal("drain", "worker1", control=control))[2].endswith("worker1 does not listen: it is down\n")
        assert "restarted 2 of 3 nodes" in (await shoal("restart", "--rolling", control=control))[1]
        assert worker.state == "down"
        assert "worker1 is starting… ready after" in (await shoal("restart", "worker1", control=control))[1]
        assert (worker.state, worker.restarts) == ("ready", 1)
        code, _, complaint = await shoal("drain", "worker9", control=control)
        assert (code, complaint) == (1, "shoal: there is no node 'worker9'; there are worker1, worker2, gateway1\n")
        assert "there is no node x" in (await shoal("restart", "x", control=control))[2]
        assert "gateway1" in (await shoal("nodes", control=control))[1]


@pytest.mark.cluster
async def test_a_node_that_does_not_come_back_ends_the_restart() -> None:
    plan = Plan(workers=1, gateways=2, models=("fake",), worker_settings=QUICK, gateway_settings=QUICK)
    async with launcher.cluster(plan) as running:
        key = running.folder / "ticket.key"
        text = key.read_text()
        key.unlink()
        code, output, complaint = await shoal("restart", "gateway1", "gateway2", control=running.control_folder)
        assert code == 1
        assert "gateway1 is draining" in output
        assert "gateway1 did not come back" in complaint
        assert "gateway2" not in output
        assert running.node("gateway2").state == "ready"
        key.write_text(text)

        async def came_back() -> bool:
            return running.node("gateway1").state == "ready"

        await eventually_async(came_back, within=20, what="the launcher goes on trying")
        await check_answer(running)


@pytest.mark.cluster
async def test_one_restart_at_a_time() -> None:
    async with launcher.cluster(Plan(workers=1, models=("fake",), gateway_settings=QUICK)) as running:
        control = running.control_folder
        first = asyncio.create_task(shoal("restart", "worker1", control=control))

        async def began() -> bool:
            return running.node("worker1").state == "draining"

        await eventually_async(began, within=20, what="the first restart")
        code, _, complaint = await shoal("restart", "--rolling", control=control)
        assert (code, complaint) == (1, "shoal: a restart is under way; wait until it has ended\n")
        assert (await first)[0] == 0


@pytest.mark.cluster
async def test_nodes_of_ones_own(folder: Path) -> None:
    """A node runs behind its prefix, with its own settings, and logs to its own file."""
    nodes = (
        Node("worker", "left", {"fronts": 2, "models": "fake?size=48", "grace": 0}, prefix=("env", "SHOAL_SIDE=left")),
        Node("gateway", "door", {"grace": 0}),
    )
    plan = Plan(nodes=nodes, models=("fake",), log_folder=folder / "logs", log_level="info")
    async with launcher.cluster(plan) as running:
        pids = running.pids
        assert {role: len(pids[role]) for role in pids} == {
            "gateway": 1,
            "worker": 1,
            "front": 2,
            "model": 1,
            "courier": 1,
            "redis": 1,
        }
        assert b"SHOAL_SIDE=left" in environ_of(pids["worker"][0])
        assert b"SHOAL_SIDE" not in environ_of(pids["gateway"][0])
        assert running.workers[0]["worker"] == "left"
    logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
    assert set(logs) == {"left.log", "door.log"}
    assert all('"message": "ready"' in text for text in logs.values())


@pytest.mark.cluster
async def test_a_command_that_does_not_exist_is_no_start() -> None:
    plan = Plan(nodes=(Node("worker", "lost", prefix=("/nowhere/at/all",)),), models=("fake",))
    with pytest.raises(DidNotStart, match="lost"):
        async with launcher.cluster(plan):
            pytest.fail("it started")


@pytest.mark.parametrize("names", [("a", "a"), ("launcher",)])
def test_the_names_of_nodes_differ(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="differ"):
        Plan(nodes=tuple(Node("worker", name) for name in names)).all_nodes()


# One service, without a launcher


@pytest.mark.cluster
async def test_the_admin_listener_of_a_service_alone(folder: Path) -> None:
    """Given a gateway that requests still need, two drains are one drain, and a signal does not cut it short."""
    tickets.generate(folder / "ticket.key", folder / "ticket-keys.json")
    path = folder / "door.sock"
    flags = ["--admin", str(path), "--port", "0", "--ticket-key", str(folder / "ticket.key"), "--authentication", "off"]
    command = [sys.executable, "-m", "gateway", "--lifeline", "--discovery", "static://127.0.0.1:1", *flags]
    child = await Child.start("door", [*command, "--name", "door", "--grace", "1"])
    async with AsyncExitStack() as stack:
        stack.push_async_callback(child.stop, 10)
        events = child.events()
        assert (await anext(events))["event"] == "ready"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        status, state = await ask(path, "GET", "/state")
        assert (status, state) == (
            200,
            {"name": "door", "role": "gateway", "pids": {"gateway": [child.pid]}, "draining": False},
        )
        assert (await operations.nodes(folder))[0]["state"] == "running"
        assert (await shoal("restart", "--rolling", control=folder))[2].endswith("it is not us who start nodes\n")
        assert (await shoal("drain", "door", "--no-wait", control=folder))[:2] == (0, "door is draining…\n")
        assert await anext(events) == {"event": "draining"}
        assert (await ask(path, "POST", "/drain"))[0] == 202
        assert (await ask(path, "GET", "/state"))[1]["draining"]
        child.signal(signal.SIGTERM)
        assert await child.wait() == 0
        assert not path.exists()


def test_a_socket_that_a_dead_process_left_is_replaced(folder: Path) -> None:
    path = folder / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with sockets.bound(path) as sock:
        assert not sockets.answers(path)
        sock.listen()
        assert sockets.answers(path)
        with pytest.raises(OSError, match="another process serves"), sockets.bound(path):
            pytest.fail("it was taken away")
        assert path.exists()
    assert not path.exists()


def test_a_path_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_WORKER_DISCOVERY", "static://127.0.0.1:1")
    longest = "/" + "x" * (sockets.MOST_PATH_BYTES - 1)
    assert WorkerSettings.load(["--admin", longest]).admin == longest
    assert WorkerSettings.load([]).admin == ""
    with pytest.raises(InvalidSettings, match=r"admin: .*108 bytes; the path of a unix socket has 107 at most"):
        WorkerSettings.load(["--admin", longest + "x"])


# Which cluster is meant


def test_the_only_cluster_is_meant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(operations.NotPossible, match=f"none runs in {folder}"):
        operations.find_control(None)
    controls = [folder / f"shoal-{number}" / "control" for number in (1, 2, 3)]
    for control in controls:
        control.mkdir(parents=True)
    with sockets.bound(controls[0] / "launcher.sock") as one, sockets.bound(controls[1] / "launcher.sock") as two:
        one.listen()
        assert operations.find_control(None) == controls[0]
        assert operations.find_control(str(controls[2])) == controls[2]
        two.listen()
        with pytest.raises(operations.NotPossible, match=f"(?s)2 clusters run here.*{controls[0]}.*{controls[1]}"):
            operations.find_control(None)
    with pytest.raises(operations.NotPossible, match="is not a folder"):
        operations.find_control(str(folder / "absent"))


def test_the_environment_names_the_cluster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOAL_CONTROL", str(folder))
    assert cli.main(["nodes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["drain", "worker1"]) == 1
    assert capsys.readouterr().err == "shoal: there is no node 'worker1'; there are none\n"
