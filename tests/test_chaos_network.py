"""Hosts in namespaces: who reaches whom, and what a cut, a slow and a lossy link do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from chaos.network import Host, Network, Subnet, missing, network
from tests.needs import need

LISTEN = """
import socket, sys
with socket.create_server(("", 5000), backlog=100) as server:
    print("ready", flush=True)
    while True:
        with server.accept()[0] as connection:
            while data := connection.recv(65536):
                connection.sendall(data[-1:])
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), timeout=float(sys.argv[2])) as connection:
    connection.settimeout(float(sys.argv[2]))
    connection.sendall(bytes(int(sys.argv[3])) + b"!")
    while connection.recv(65536)[-1:] != b"!":
        pass
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    reason = missing()
    need(reason is None, str(reason))
    with network({"gateway": ("internal", "public"), "worker": ("internal", "public"), "client": ("public",)}) as built:
        command = [*built.hosts["worker"].prefix, sys.executable, "-c", LISTEN]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield built
            server.kill()


def reaches(net: Network, host: Host, subnet: Subnet, *, within: float = 1.0, size: int = 10) -> bool:
    """Whether ``size`` bytes come from ``host`` to the worker, and the answer back."""
    command = [*host.prefix, sys.executable, "-c", SEND, net.hosts["worker"].address(subnet), str(within), str(size)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_clients_reach_the_public_side_only(net: Network) -> None:
    client, gateway = net.hosts["client"], net.hosts["gateway"]
    assert reaches(net, client, "public")
    assert not reaches(net, client, "internal")
    assert reaches(net, gateway, "internal")
    assert reaches(net, gateway, "public")
    assert reaches(net, net.hub, "internal")
    with pytest.raises(KeyError):
        client.address("internal")


def test_a_cut_link_carries_nothing_until_it_is_mended(net: Network) -> None:
    gateway = net.hosts["gateway"]
    net.cut("worker", "internal")
    assert not reaches(net, gateway, "internal")
    assert reaches(net, gateway, "public")
    net.mend("worker", "internal")
    assert reaches(net, gateway, "internal", within=5)


def test_a_slow_link_takes_its_time(net: Network) -> None:
    gateway = net.hosts["gateway"]
    with net.slow("worker", "internal", kbit=1000):
        started = time.monotonic()
        assert reaches(net, gateway, "internal", within=20, size=125_000)
        assert time.monotonic() - started > 0.7
    started = time.monotonic()
    assert reaches(net, gateway, "internal", within=20, size=125_000)
    assert time.monotonic() - started < 0.7


def test_a_lossy_link_loses_some_packets_and_a_dead_one_all(net: Network) -> None:
    gateway = net.hosts["gateway"]
    with net.lossy("worker", "internal", 1.0):
        assert not reaches(net, gateway, "internal")
    with net.lossy("worker", "internal", 0.1):
        assert reaches(net, gateway, "internal", within=30, size=100_000)


def test_nothing_is_left() -> None:
    reason = missing()
    need(reason is None, str(reason))
    with pytest.raises(RuntimeError, match="by the body"), network({"a": ("public",)}) as built:
        raise RuntimeError("by the body")
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert built.hosts["a"].namespace not in left
    assert built.hub.namespace not in left
