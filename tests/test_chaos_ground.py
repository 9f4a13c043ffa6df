"""What the fault tests stand on: links that delay, hosts that a killed run does not leave behind, a quorum."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from chaos.impaired_link import MOST_WAITING, Lane, Orders
from chaos.network import Host, Network, Subnet, missing, network
from tests.clusters import eventually, is_running
from tests.consul_server import find_consul
from tests.needs import need

ECHO = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind(("", 5001))
    print("ready", flush=True)
    while True:
        data, caller = server.recvfrom(100)
        server.sendto(data, caller)
"""
ASK = """
import socket, sys, time
with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.settimeout(0.2)
    client.connect((sys.argv[1], 5001))
    for _ in range(int(sys.argv[2])):
        asked = time.perf_counter()
        client.send(b"?")
        try:
            client.recv(100)
        except TimeoutError:
            continue
        print(time.perf_counter() - asked)
"""
BUILD = """
import sys
from chaos.network import network
with network({"a": ("internal",), "b": ("internal",)}) as built, built.impaired("a", "internal", delay=0.01):
    print(*(host.holder for host in (*built.hosts.values(), built.hub)), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def net() -> Iterator[Network]:
    reason = missing()
    need(reason is None, str(reason))
    hosts: dict[str, tuple[Subnet, ...]] = {"worker": ("internal", "public"), "client": ("public",)}
    with network(hosts | dict.fromkeys(("consul1", "consul2", "consul3"), ("internal",))) as built:
        yield built


@pytest.fixture
def echo(net: Network) -> Iterator[Host]:
    """The worker, which sends back what it gets."""
    command = [*net.hosts["worker"].prefix, sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield net.hosts["worker"]
        server.kill()


def round_trips(client: Host, server: Host, count: int) -> list[float]:
    """The seconds of those round trips that came back, of ``count``."""
    command = [*client.prefix, sys.executable, "-c", ASK, server.address("public"), str(count)]
    answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [float(line) for line in answer.split()]


def test_a_delayed_link_is_late_both_ways_and_afterwards_as_before(net: Network, echo: Host) -> None:
    client = net.hosts["client"]
    before = statistics.median(round_trips(client, echo, 20))
    with net.impaired("client", "public", delay=0.03):
        assert min(round_trips(client, echo, 20)) > 0.058  # timers have whole milliseconds
    after = round_trips(client, echo, 20)
    assert len(after) == 20
    assert max(before, statistics.median(after)) < 0.03


def test_a_lossy_link_loses_about_its_share(net: Network, echo: Host) -> None:
    client = net.hosts["client"]
    assert len(round_trips(client, echo, 1)) == 1  # the hosts know each other's hardware address from here on
    with net.impaired("client", "public", loss=0.3):
        came = len(round_trips(client, echo, 40))
    assert 5 < came < 35  # of 40, 49 % on average; outside of this less than once in 10,000 runs


def test_a_connection_outlives_the_impairment_of_its_link(net: Network) -> None:
    worker, client = net.hosts["worker"], net.hosts["client"]
    talk = "import sys, socket\n"
    serve = talk + "s = socket.create_server(('', 5002)); print('ready', flush=True); c, _ = s.accept()\n"
    serve += "while data := c.recv(65536): c.sendall(data)"
    call = talk + "c = socket.create_connection((sys.argv[1], 5002), timeout=10); f = c.makefile('rwb')\n"
    call += "for line in sys.stdin.buffer: f.write(line); f.flush(); print(len(f.readline()), flush=True)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*worker.prefix, sys.executable, "-c", serve], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        command = [*client.prefix, sys.executable, "-c", call, worker.address("public")]
        with subprocess.Popen(command, **pipes) as caller:  # type: ignore[call-overload]
            line = b"x" * 100_000 + b"\n"  # more than one frame: large ones must be cut for a TAP device

            def exchange() -> int:
                caller.stdin.write(line)
                caller.stdin.flush()
                return int(caller.stdout.readline())

            assert exchange() == len(line)
            with net.impaired("client", "public", delay=0.01, jitter=0.005, loss=0.01):
                assert exchange() == len(line)
            assert exchange() == len(line)


@pytest.mark.parametrize("unasked", [True, False])
def test_no_namespace_outlives_its_builder(unasked: bool) -> None:
    reason = missing()
    need(reason is None, str(reason))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", BUILD], **pipes) as builder:  # type: ignore[call-overload]
        holders = [int(pid) for pid in builder.stdout.readline().split()]
        inside = {namespace_of(pid) for pid in holders}
        assert len(inside) == 3
        assert namespace_of(os.getpid()) not in inside
        if unasked:
            builder.send_signal(signal.SIGKILL)
    assert (builder.returncode == 0) is not unasked
    eventually(lambda: not any(map(is_running, holders)), within=5, what="the end of the holders")
    eventually(lambda: not inside & set(namespaces()), within=5, what="nobody in its namespaces")


def namespace_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def namespaces() -> Iterator[str]:
    """The network namespaces of all processes."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            yield namespace_of(int(process.name))


def test_an_interface_of_no_host_appears_on_the_machine(net: Network) -> None:
    assert not {name for _, name in socket.if_nameindex()} & {"internal", "public", "pub1", "int1"}


# A lane, with the clock as an argument

LANES = [
    ("no impairment", Orders(("a", "b")), [0.0, 1.0], [0.0, 1.0]),
    ("delay", Orders(("a", "b"), delay=0.5), [0.0, 0.1], [0.5, 0.6]),
    ("all lost", Orders(("a", "b"), loss=1.0), [0.0, 0.1], []),
]


@pytest.mark.parametrize(("orders", "come", "leave"), [row[1:] for row in LANES], ids=[row[0] for row in LANES])
def test_when_a_lane_lets_its_frames_go(orders: Orders, come: list[float], leave: list[float]) -> None:
    out: list[bytes] = []
    lane = Lane(orders, out.append, random.Random(1))
    for number, now in enumerate(come):
        lane.accept(bytes([number]), now)
    left: list[float] = []
    due = lane.release(-1.0)
    while due is not None:
        left.append(due)
        due = lane.release(due)
    assert left == pytest.approx(leave)
    assert out == [bytes([number]) for number in range(len(leave))]


def test_jitter_swaps_no_frames() -> None:
    out: list[bytes] = []
    lane = Lane(Orders(("a", "b"), delay=0.1, jitter=0.1), out.append, random.Random(1))
    frames = [number.to_bytes(2) for number in range(1000)]
    for number, frame in enumerate(frames):
        lane.accept(frame, number / 1000)
    assert lane.release(10.0) is None
    assert out == frames


def test_a_full_lane_loses_what_comes_last() -> None:
    out: list[bytes] = []
    lane = Lane(Orders(("a", "b"), delay=1.0), out.append, random.Random(1))
    for number in range(MOST_WAITING + 5):
        lane.accept(number.to_bytes(2), 0.0)
    lane.release(2.0)
    assert out == [number.to_bytes(2) for number in range(MOST_WAITING)]


# Consul


def test_a_quorum_elects_another_leader_and_comes_back_empty(net: Network, tmp_path: Path) -> None:
    binary = find_consul()
    need(binary, "consul is not installed")
    assert binary is not None
    orders = msgspec.json.encode({"binary": binary, "folder": str(tmp_path), "hosts": list(net.hosts.values())})
    command = [*net.hub.prefix, sys.executable, "-m", "tests.quorum_process"]  # only the hub can reach the agents
    ran = subprocess.run(command, input=orders, capture_output=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stderr.decode()
    told = json.loads(ran.stdout)
    assert told["killed"] != told["next"]
    assert told["seconds"] < 15
    assert told["kept"] == "yes"
    assert told["kept_when_empty"] is None
