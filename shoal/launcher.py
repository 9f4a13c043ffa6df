"""A whole cluster on this machine, as processes: what ``shoal up``, the tests and the benchmarks run on.

Everything a cluster writes lies in one scratch folder. Children die with the launcher, and a janitor process
outside its session removes the folder, so nothing is left behind, not even by SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal import keys, tickets
from shoal.processes import Child

log = logging.getLogger(__name__)

_READY_SECONDS = 180.0
_STOP_SECONDS = 90.0


class DidNotStart(Exception):
    """A process of the cluster ended before it was ready; its log says why."""


@dataclass(frozen=True)
class Plan:
    """The cluster to start. Extra settings go to the services as flags: ``{"grace": 1}`` is ``--grace 1``."""

    workers: int = 2
    gateways: int = 1
    models: tuple[str, ...] = ("lite0",)
    discovery: str = ""
    port: int = 0
    authentication: bool = True
    log_level: str = "warning"
    gateway_settings: Mapping[str, Any] = field(default_factory=dict)
    worker_settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A cluster that answers."""

    folder: Path
    gateways: list[str]
    workers: list[dict[str, Any]]
    models: list[str]
    api_key: str
    pids: dict[str, list[int]]
    children: list[Child]

    def __repr__(self) -> str:
        return f"<Running {', '.join(self.gateways)}: {len(self.workers)} workers>"

    def document(self) -> dict[str, Any]:
        """What ``shoal up --json`` prints."""
        return {
            "gateway": self.gateways[0],
            "gateways": self.gateways,
            "workers": self.workers,
            "models": self.models,
            "api_key": self.api_key,
            "pids": self.pids,
        }


@asynccontextmanager
async def cluster(plan: Plan) -> AsyncIterator[Running]:
    """Start the cluster of ``plan``, wait until it answers, and stop it gracefully on leaving.

    Raises ``DidNotStart``.
    """
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))
    janitor = _start_janitor(folder)
    children: list[Child] = []
    try:
        yield await _start(plan, folder, children)
    finally:
        await _stop(children)
        assert janitor.stdin is not None
        janitor.stdin.close()
        await asyncio.to_thread(janitor.wait)


async def _start(plan: Plan, folder: Path, children: list[Child]) -> Running:
    ticket_key, ticket_keys, key_file = (folder / n for n in ("ticket.key", "ticket-keys.json", "api-keys"))
    tickets.generate(ticket_key, ticket_keys)
    api_key = keys.add(key_file, "local") if plan.authentication else ""
    common = {"discovery": plan.discovery or f"file://{folder / 'members'}", "log-level": plan.log_level}
    (folder / "tmp").mkdir()
    environ = {"TMPDIR": str(folder / "tmp"), "MALLOC_ARENA_MAX": "2"}

    async def start(service: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        command = [sys.executable, "-m", service, "--lifeline", *_flags(settings)]
        child = await Child.start(service, command, environ=environ)
        children.append(child)
        return await _ready(child)

    workers = await asyncio.gather(
        *(
            start(
                "worker",
                common
                | {"name": f"worker{number}", "port": 0, "models": ",".join(plan.models), "ticket-keys": ticket_keys}
                | {"grace": 2}
                | dict(plan.worker_settings),
            )
            for number in range(1, plan.workers + 1)
        )
    )
    access = {"api-keys": key_file} if plan.authentication else {"authentication": "off"}
    gateways = await asyncio.gather(
        *(
            start(
                "gateway",
                common
                | {"name": f"gateway{number}", "port": plan.port if number == 1 else 0, "ticket-key": ticket_key}
                | {"grace": 0}
                | access
                | dict(plan.gateway_settings),
            )
            for number in range(1, plan.gateways + 1)
        )
    )
    pids: dict[str, list[int]] = {"gateway": [], "worker": [], "front": [], "model": [], "redis": []}
    for event in [*gateways, *workers]:
        for role, numbers in event["pids"].items():
            pids[role] += numbers
    return Running(
        folder=folder,
        gateways=[event["public_url"] for event in gateways],
        workers=[{name: w[name] for name in ("worker", "internal_url", "public_url", "pids")} for w in workers],
        models=sorted({model for w in workers for model in w["models"]}),
        api_key=api_key,
        pids=pids,
        children=children,
    )


def _flags(settings: Mapping[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


async def _ready(child: Child) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            async for event in child.events():
                if event.get("event") == "ready":
                    return event
    except TimeoutError:
        raise DidNotStart(f"{child} was not ready after {_READY_SECONDS:g} s") from None
    await child.wait()
    raise DidNotStart(f"{child} before it was ready")


async def _stop(children: list[Child]) -> None:
    """Gateways first: they refuse what the workers could no longer answer."""
    for service in ("gateway", "worker"):
        await asyncio.gather(*(child.stop(_STOP_SECONDS) for child in children if child.name == service))


def _start_janitor(folder: Path) -> subprocess.Popen[bytes]:
    """A process that removes ``folder`` once we are gone, however we go."""
    return subprocess.Popen(
        [sys.executable, "-m", "shoal.janitor", str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
