"""A whole cluster on this machine, as processes: what ``shoal up``, the tests and the benchmarks run on.

Everything a cluster writes lies in one scratch folder. Children die with the launcher, and a janitor process
outside its session removes the folder, so nothing is left behind, not even by SIGKILL.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal import control, keys, tickets
from shoal.node import DidNotStart, Instance, Node, Service

__all__ = ["DidNotStart", "Node", "Plan", "Running", "cluster"]

_SERVICES: tuple[Service, ...] = ("worker", "gateway")  # in the order in which they start
_ROLES = ("gateway", "worker", "front", "model", "courier", "redis")
_REPOSITORY = "repository"
_OUR_PAGES = ",".join(  # a gateway's port is not known when its workers start
    f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("127.0.0.1", "localhost")
)
_GRACE = {"worker": 2, "gateway": 0.5}  # enough to hear of it here, where everybody polls and nobody is far away


@dataclass(frozen=True)
class Plan:
    """The cluster to start. Extra settings go to the services as flags: ``{"grace": 1}`` is ``--grace 1``.

    ``nodes`` replaces ``workers``, ``gateways`` and ``port``; what a node does not set itself comes from the plan.
    With a ``log_folder``, each node logs to NAME.log there, and not to our standard error.
    """

    workers: int = 2
    gateways: int = 1
    models: tuple[str, ...] = ("lite0",)
    discovery: str = ""
    port: int = 0
    authentication: bool = True
    log_level: str = "warning"
    gateway_settings: Mapping[str, Any] = field(default_factory=dict)
    worker_settings: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    log_folder: Path | None = None

    def all_nodes(self) -> tuple[Node, ...]:
        """The nodes to run. Raises ``ValueError`` when two have one name."""
        nodes = self.nodes or (
            *(Node("worker", f"worker{number}") for number in range(1, self.workers + 1)),
            *(
                Node("gateway", f"gateway{number}", {"port": self.port} if self.port and number == 1 else {})
                for number in range(1, self.gateways + 1)
            ),
        )
        names = [node.name for node in nodes]
        if len({*names, control.LAUNCHER}) <= len(names):
            raise ValueError(f"the names of nodes differ, and none is {control.LAUNCHER}: {', '.join(names)}")
        return nodes


@dataclass(frozen=True)
class Running:
    """A cluster that answers, as it is now: its nodes may die and be started again."""

    folder: Path
    api_key: str
    discovery: str
    instances: tuple[Instance, ...]

    def __repr__(self) -> str:
        return f"<Running {', '.join(self.gateways)}: {len(self.workers)} workers>"

    def of(self, service: Service) -> list[Instance]:
        return [instance for instance in self.instances if instance.node.service == service]

    def node(self, name: str) -> Instance:
        """Raises ``KeyError``."""
        return {instance.name: instance for instance in self.instances}[name]

    @property
    def control_folder(self) -> Path:
        return self.folder / "control"

    @property
    def gateways(self) -> list[str]:
        """Their public URLs, which stay the same."""
        return [str(instance.event["public_url"]) for instance in self.of("gateway") if instance.event]

    @property
    def workers(self) -> list[dict[str, Any]]:
        return [
            {name: instance.event[name] for name in ("worker", "internal_url", "public_url")}
            | {"pids": dict(instance.pids)}
            for instance in self.of("worker")
            if instance.event
        ]

    @property
    def internal_urls(self) -> dict[str, str]:
        """Of each node, where its health and its metrics are."""
        return {i.name: str(i.event["internal_url"]) for i in self.instances if i.event}

    @property
    def models(self) -> list[str]:
        return sorted({model for instance in self.of("worker") for model in instance.event.get("models", ())})

    @property
    def pids(self) -> dict[str, list[int]]:
        """All processes of the nodes by role."""
        return {role: [pid for i in self.instances for pid in i.pids.get(role, ())] for role in _ROLES}

    def document(self) -> dict[str, Any]:
        """What ``shoal up --json`` prints."""
        return {
            "gateway": self.gateways[0] if self.gateways else None,
            "gateways": self.gateways,
            "workers": self.workers,
            "internal_urls": self.internal_urls,
            "models": self.models,
            "api_key": self.api_key,
            "pids": self.pids,
            "control": str(self.control_folder),
            "discovery": self.discovery,
            "repository": str(self.folder / _REPOSITORY),
        }


@asynccontextmanager
async def cluster(plan: Plan) -> AsyncIterator[Running]:
    """Start the cluster of ``plan``, wait until it answers, keep its nodes running, and stop it gracefully on leaving.

    Raises ``DidNotStart``.
    """
    nodes = plan.all_nodes()
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))
    janitor = _start_janitor(folder)
    running = _prepare(plan, nodes, folder)
    try:
        for service in _SERVICES:
            await asyncio.gather(*(instance.start() for instance in running.of(service)))
        async with control.listening(running.control_folder, running.instances):
            yield running
    finally:
        for service in reversed(_SERVICES):  # gateways first: they refuse what the workers could no longer answer
            await _stop(running.of(service))
        assert janitor.stdin is not None
        janitor.stdin.close()
        await asyncio.to_thread(janitor.wait)


async def _stop(instances: list[Instance]) -> None:
    outcomes = await asyncio.gather(*(instance.stop() for instance in instances), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _prepare(plan: Plan, nodes: Sequence[Node], folder: Path) -> Running:
    """The keys and folders of a cluster, and its instances, not yet started."""
    ticket_key, ticket_keys, key_file = (folder / n for n in ("ticket.key", "ticket-keys.json", "api-keys"))
    tickets.generate(ticket_key, ticket_keys)
    api_key = keys.add(key_file, "local", is_admin=True) if plan.authentication else ""
    for name in ("tmp", "control", _REPOSITORY):
        (folder / name).mkdir()
    if plan.log_folder:
        plan.log_folder.mkdir(parents=True, exist_ok=True)
    environ = {"TMPDIR": str(folder / "tmp"), "MALLOC_ARENA_MAX": "2"}
    discovery = plan.discovery or f"file://{folder / 'members'}"
    common = {"discovery": discovery, "log-level": plan.log_level, "port": 0}
    access = {"api-keys": key_file} if plan.authentication else {"authentication": "off"}
    ours: dict[str, Mapping[str, Any]] = {
        "worker": {"models": ",".join(plan.models), "ticket-keys": ticket_keys, "cors-origins": _OUR_PAGES},
        "gateway": {"ticket-key": ticket_key, "browser-uploads": _OUR_PAGES} | access,
    }
    theirs = {"worker": plan.worker_settings, "gateway": plan.gateway_settings}

    def instance(node: Node) -> Instance:
        local = {"grace": _GRACE[node.service], "admin": folder / "control" / f"{node.name}.sock"}
        log_file = plan.log_folder / f"{node.name}.log" if plan.log_folder else None
        settings = (common, ours[node.service], local, theirs[node.service], node.settings)
        return Instance(node.having(*settings), environ=environ, log_file=log_file)

    return Running(folder, api_key, discovery, tuple(instance(node) for node in nodes))


def _start_janitor(folder: Path) -> subprocess.Popen[bytes]:
    """A process that removes ``folder`` once we are gone, however we go."""
    return subprocess.Popen(
        [sys.executable, "-m", "shoal.janitor", str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
