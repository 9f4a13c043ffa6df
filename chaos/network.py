"""Several hosts on one machine: network namespaces on two subnets, whose links can be cut, slowed or made lossy.

``internal`` joins gateways, workers and Consul; ``public`` joins clients, gateways and the workers that clients may
reach. Nothing routes between them. Both bridges lie in a namespace of their own, the *hub*, so the machine's
own network is not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Subnet = Literal["internal", "public"]

_NETWORKS: Mapping[Subnet, str] = {"internal": "10.77.0", "public": "10.78.0"}
_HUB = 254


def missing() -> str | None:
    """Why there can be no such network here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc", "iptables"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    name = f"shoal-probe-{uuid.uuid4().hex[:6]}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.strip()}"
    return None


@dataclass(frozen=True)
class Host:
    """One host: a namespace, and its address on each of its subnets."""

    name: str
    namespace: str
    number: int
    subnets: tuple[Subnet, ...]

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one here."""
        return ("ip", "netns", "exec", self.namespace)

    def address(self, subnet: Subnet) -> str:
        """Raises ``KeyError`` when the host is not on that subnet."""
        if subnet not in self.subnets:
            raise KeyError(f"{self.name} is not on the {subnet} subnet")
        return f"{_NETWORKS[subnet]}.{self.number}"


class Network:
    """The hosts by name, and their links. Construct with ``network``."""

    def __init__(self, run: str, hosts: Mapping[str, Host]) -> None:
        self.run = run
        self.hosts = hosts

    def __repr__(self) -> str:
        return f"<Network {self.run}: {', '.join(self.hosts)}>"

    @property
    def hub(self) -> Host:
        """The namespace of the bridges, from which every host can be reached."""
        return Host("hub", _namespace(self.run, "hub"), _HUB, ("internal", "public"))

    def cut(self, host: str, subnet: Subnet) -> None:
        """Pull the plug of one link."""
        self._set_link(host, subnet, "down")

    def mend(self, host: str, subnet: Subnet) -> None:
        """Undo ``cut``."""
        self._set_link(host, subnet, "up")

    @contextmanager
    def slow(self, host: str, subnet: Subnet, kbit: int) -> Iterator[None]:
        """Let at most ``kbit`` a second through to the host and back."""
        ends = (self.hub, _link(self.hosts[host].number, subnet)), (self.hosts[host], subnet)
        limit = ("root", "tbf", "rate", f"{kbit}kbit", "burst", "16kb", "latency", "400ms")
        for where, device in ends:
            _run(*where.prefix, "tc", "qdisc", "add", "dev", device, *limit)
        try:
            yield
        finally:
            for where, device in ends:
                _run(*where.prefix, "tc", "qdisc", "del", "dev", device, "root")

    @contextmanager
    def lossy(self, host: str, subnet: Subnet, share: float) -> Iterator[None]:
        """Drop this share of the packets that come to the host."""
        rule = ("INPUT", "-i", subnet, "-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")
        prefix = self.hosts[host].prefix
        _run(*prefix, "iptables", "-A", *rule)
        try:
            yield
        finally:
            _run(*prefix, "iptables", "-D", *rule)

    def _set_link(self, host: str, subnet: Subnet, state: str) -> None:
        _run("ip", "-n", self.hub.namespace, "link", "set", _link(self.hosts[host].number, subnet), state)


@contextmanager
def network(hosts: Mapping[str, tuple[Subnet, ...]]) -> Iterator[Network]:
    """Hosts by name, each with the subnets that it is on; nothing is left of them afterwards.

    What a killed process left of its own is deleted first.
    """
    _delete_orphans()
    run = f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
    made = {
        name: Host(name, _namespace(run, name), number, tuple(subnets))
        for number, (name, subnets) in enumerate(hosts.items(), start=1)
    }
    built = Network(run, made)
    try:
        _batch(f"netns add {host.namespace}" for host in [*made.values(), built.hub])
        _batch(_bridges(), built.hub)
        _batch(
            f"link add {_link(host.number, subnet)} netns {built.hub.namespace} "
            f"type veth peer name {subnet} netns {host.namespace}"
            for host in made.values()
            for subnet in host.subnets
        )
        _batch(_plugs(made.values()), built.hub)
        for host in made.values():
            _batch(_addresses(host), host)
        yield built
    finally:
        for host in [*made.values(), built.hub]:
            with suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", host.namespace)


def _delete_orphans() -> None:
    """The name of a namespace starts with the pid of its maker."""
    for name, pid in re.findall(r"^(shoal-(\d+)-\S+)", _run("ip", "netns", "list"), re.MULTILINE):
        if not Path(f"/proc/{pid}").exists():
            with suppress(subprocess.CalledProcessError):  # another one deletes it as well
                _run("ip", "netns", "del", name)


def _bridges() -> Iterator[str]:
    yield "link set lo up"
    for subnet in _NETWORKS:
        yield f"link add {subnet} type bridge"
        yield f"address add {_NETWORKS[subnet]}.{_HUB}/24 dev {subnet}"
        yield f"link set {subnet} up"


def _plugs(hosts: Iterable[Host]) -> Iterator[str]:
    for host in hosts:
        for subnet in host.subnets:
            yield f"link set {_link(host.number, subnet)} master {subnet} up"


def _addresses(host: Host) -> Iterator[str]:
    yield "link set lo up"
    for subnet in host.subnets:
        yield f"address add {host.address(subnet)}/24 dev {subnet}"
        yield f"link set {subnet} up"


def _batch(commands: Iterable[str], host: Host | None = None) -> None:
    _run("ip", *(("-n", host.namespace) if host else ()), "-batch", "-", text="\n".join(commands))


def _link(number: int, subnet: Subnet) -> str:
    return f"{subnet[:3]}{number}"


def _namespace(run: str, name: str) -> str:
    return f"shoal-{run}-{name}"


def _run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, input=text, text=True).stdout
