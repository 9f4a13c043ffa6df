"""Several hosts on one machine: namespaces on two subnets, whose links can be cut, slowed, delayed or made lossy.

``internal`` joins gateways, workers and Consul; ``public`` joins clients, gateways and the workers that clients may
reach. Nothing routes between them. Both bridges lie in a namespace of their own, the *hub*, so the machine's
own network is not touched.

Each namespace is held by a waiting ``cat`` whose input is our pipe. When we end, however we end, so does the pipe, then
``cat``; the kernel removes a namespace, with its links, once no process is in it. So a killed run leaves nothing to
clean, and no two runs share a name. Without root, all of it lives in one user namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import msgspec

from chaos.impaired_link import Orders

Subnet = Literal["internal", "public"]

_NETWORKS: Mapping[Subnet, str] = {"internal": "10.77.0", "public": "10.78.0"}
_HUB = 254
_PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
_PROBE = (
    "ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge"
    " && ip tuntap add dev probe3 mode tap && tc qdisc add dev probe0 root tbf rate 1mbit burst 16kb latency 1s"
)
_LINK_SECONDS = 5.0


def missing() -> str | None:
    """Why there can be no such network here, or None. It tries, which takes some 20 ms."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"there is no {program} (package {package})"
    try:
        _run(*_privileges(), "unshare", "--net", "sh", "-c", _PROBE)
    except subprocess.CalledProcessError as error:
        who = "root" if os.geteuid() == 0 else "a user who is not root"
        return f"{who} cannot make network namespaces and their devices here: {error.stderr.strip()}"
    return None


@dataclass(frozen=True)
class Host:
    """One host: the process that holds its namespace, and its address on each of its subnets."""

    name: str
    holder: int
    number: int
    subnets: tuple[Subnet, ...]

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one here, as the same process."""
        user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        return ("nsenter", f"--target={self.holder}", *user, "--net")

    def address(self, subnet: Subnet) -> str:
        """Raises ``KeyError`` when the host is not on that subnet."""
        if subnet not in self.subnets:
            raise KeyError(f"{self.name} is not on the {subnet} subnet")
        return f"{_NETWORKS[subnet]}.{self.number}"


class Network:
    """The hosts by name, and their links. Construct with ``network``."""

    def __init__(self, hub: int, hosts: Mapping[str, Host]) -> None:
        self.hub = Host("hub", hub, _HUB, ("internal", "public"))
        """The namespace of the bridges, from which every host can be reached."""
        self.hosts = hosts

    def __repr__(self) -> str:
        return f"<Network {self.hub.holder}: {', '.join(self.hosts)}>"

    def cut(self, host: str, subnet: Subnet) -> None:
        """Pull the plug of one link: what either side sends vanishes, and nobody is told."""
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

    def lossy(self, host: str, subnet: Subnet, share: float) -> AbstractContextManager[None]:
        """Lose this share of the packets, in each direction."""
        return self.impaired(host, subnet, loss=share)

    @contextmanager
    def impaired(
        self, host: str, subnet: Subnet, *, delay: float = 0.0, jitter: float = 0.0, loss: float = 0.0
    ) -> Iterator[None]:
        """In each direction, carry frames ``delay`` ± ``jitter`` seconds late, and lose the share ``loss`` (0 to 1).

        Only for this time is there a process in between; connections go on before and afterwards. One at a time
        for a link; ``slow`` and ``cut`` combine with it.
        """
        self.hosts[host].address(subnet)
        port = _link(self.hosts[host].number, subnet)
        near, far, lane = f"near-{port}", f"far-{port}", f"lane-{port}"
        with _forwarding(self.hub, Orders((near, far), delay, jitter, loss)):
            _batch(_detour(port, subnet, near, far, lane), self.hub)
            try:
                yield
            finally:
                _batch([f"link set {port} master {subnet}", f"link delete {lane}"], self.hub)

    def _set_link(self, host: str, subnet: Subnet, state: str) -> None:
        _batch([f"link set {_link(self.hosts[host].number, subnet)} {state}"], self.hub)


@contextmanager
def network(hosts: Mapping[str, tuple[Subnet, ...]]) -> Iterator[Network]:
    """Hosts by name, each with the subnets that it is on; nothing is left of them afterwards.

    End what runs in them before leaving: a process keeps its namespace.
    """
    with ExitStack() as stack:
        hub = stack.enter_context(_held(_privileges()))
        below = () if os.geteuid() == 0 else ("nsenter", f"--target={hub}", "--user", "--preserve-credentials")
        made = {
            name: Host(name, stack.enter_context(_held(below)), number, tuple(subnets))
            for number, (name, subnets) in enumerate(hosts.items(), start=1)
        }
        built = Network(hub, made)
        _batch(_bridges(), built.hub)
        _batch(_cables(made.values()), built.hub)
        for host in made.values():
            _batch(_addresses(host), host)
        yield built


def _privileges() -> tuple[str, ...]:
    """What makes us root over namespaces of our own."""
    return () if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user")


@contextmanager
def _held(prefix: Sequence[str]) -> Iterator[int]:
    """A process that holds a new network namespace, in a session of its own, out of reach of Ctrl-C."""
    with subprocess.Popen(
        [*prefix, "unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        with holder.stdin:
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            if holder.stdout.readline() != b"\n":  # only ``cat`` answers, and it is inside
                raise RuntimeError("no network namespace could be made: see missing()")
            yield holder.pid


@contextmanager
def _forwarding(hub: Host, orders: Orders) -> Iterator[None]:
    """A process that carries frames between two devices of the hub, which are there as long as it runs."""
    with subprocess.Popen(
        [*hub.prefix, sys.executable, "-m", "chaos.impaired_link"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as link:
        assert link.stdin is not None
        assert link.stdout is not None
        try:
            link.stdin.write(msgspec.json.encode(orders) + b"\n")
            link.stdin.flush()
            if not link.stdout.readline():
                raise RuntimeError("the impaired link did not start")
            yield
        finally:
            link.terminate()
            try:
                link.wait(_LINK_SECONDS)
            except subprocess.TimeoutExpired:
                link.kill()


def _detour(port: str, subnet: Subnet, near: str, far: str, lane: str) -> Iterator[str]:
    """Lead a host's port through ``near`` and ``far``; the bridge ``lane`` computes checksums and cuts large frames."""
    yield f"link add {lane} type bridge"
    yield f"link set {near} master {lane}"
    yield f"link set {far} master {subnet}"
    yield from (f"link set {device} up" for device in (near, far, lane))
    yield f"link set {port} master {lane}"


def _bridges() -> Iterator[str]:
    yield "link set lo up"
    for subnet in _NETWORKS:
        yield f"link add {subnet} type bridge"
        yield f"address add {_NETWORKS[subnet]}.{_HUB}/24 dev {subnet}"
        yield f"link set {subnet} up"


def _cables(hosts: Iterable[Host]) -> Iterator[str]:
    for host in hosts:
        for subnet in host.subnets:
            yield f"link add {_link(host.number, subnet)} type veth peer name {subnet} netns {host.holder}"
            yield f"link set {_link(host.number, subnet)} master {subnet} up"


def _addresses(host: Host) -> Iterator[str]:
    yield "link set lo up"
    for subnet in host.subnets:
        yield f"address add {host.address(subnet)}/24 dev {subnet}"
        yield f"link set {subnet} up"


def _batch(commands: Iterable[str], host: Host) -> None:
    _run(*host.prefix, "ip", "-batch", "-", text="\n".join(commands))


def _link(number: int, subnet: Subnet) -> str:
    return f"{subnet[:3]}{number}"


def _run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, check=True, capture_output=True, input=text, text=True)
