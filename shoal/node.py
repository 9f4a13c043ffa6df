"""One gateway or worker that is kept running: started, started again when it dies, restarted when asked."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from shoal.keeper import Keeper
from shoal.processes import Child

log = logging.getLogger(__name__)

Service = Literal["gateway", "worker"]
State = Literal["starting", "ready", "draining", "dead", "down"]

_READY_SECONDS = 180.0
_STOP_SECONDS = 90.0
_TRIES_TO_COME_BACK = 3


class DidNotStart(Exception):
    """A process of the cluster ended before it was ready; its log says why."""


@dataclass(frozen=True)
class Node:
    """One gateway or worker to run. ``prefix`` is a command that runs it elsewhere, as in another namespace."""

    service: Service
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """The command line. It ends when its standard input does."""
        flags = [part for name, value in self.settings.items() for part in _flag(_dashed(name), value)]
        return [*self.prefix, sys.executable, "-m", self.service, "--lifeline", "--name", self.name, *flags]

    def having(self, *settings: Mapping[str, Any]) -> Node:
        """This node with exactly ``settings``; of what they have in common the last one counts."""
        merged = {_dashed(name): value for mapping in settings for name, value in mapping.items()}
        return Node(self.service, self.name, merged, self.prefix)


def _flag(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, bool):
        return (f"--{name}",) if value else (f"--no-{name}",)
    return f"--{name}", str(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class Instance:
    """A node as it is now. Its state is

    * ``starting`` until it says that it is ready, then ``ready``, and ``draining`` once it was told to stop;
    * ``dead`` when it ended by itself: it will be started again, after a pause if it dies at once each time;
    * ``down`` when it ended with exit code 0 unasked, which means that an operator drained it, or when it was
      stopped. It stays down.
    """

    def __init__(self, node: Node, *, environ: Mapping[str, str], log_file: Path | None = None) -> None:
        self.node = node
        self.state: State = "down"
        self.starts = 0
        self.event: Mapping[str, Any] = {}
        self._environ = environ
        self._log_file = log_file
        self._ports: Mapping[str, int] = {}
        self._pids: Mapping[str, list[int]] = {}
        self._keeper: Keeper | None = None
        self._running: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Instance {self.node.name} {self.state}, {self.restarts} restarts>"

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)

    @property
    def pids(self) -> Mapping[str, list[int]]:
        """The processes by role, as far as the node has told."""
        return self._pids if self._child_runs() else {}

    def document(self) -> dict[str, Any]:
        """What an operator is shown."""
        return {
            "name": self.name,
            "service": self.node.service,
            "state": self.state,
            "pids": self.pids,
            "restarts": self.restarts,
        }

    async def start(self) -> None:
        """Start it, keep it running from now on, and wait until it is ready. Raises ``DidNotStart``."""
        keeper = self._keeper = Keeper(
            self.name,
            self._start,
            heard=self._heard,
            buried=self._buried,
            stop_timeout=_STOP_SECONDS,
            stays_down=self._stays_down,
        )
        self._become("starting")
        tries = _TRIES_TO_COME_BACK if self.event else 1
        self._running = asyncio.create_task(self._keep(keeper))
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while self.state != "ready" and keeper.deaths < tries and not self._running.done():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise DidNotStart(f"{keeper.child} was not ready after {_READY_SECONDS:g} s") from None
        if self.state != "ready":
            raise DidNotStart(f"{keeper.child or self} before it was ready")

    async def stop(self) -> int:
        """Drain it, and end it if that takes too long. Returns its exit code; 0 when there was nothing to stop."""
        if self._keeper is None or self._running is None:
            return 0
        was_down = self._running.done()
        await self._keeper.stop()
        await asyncio.wait([self._running])  # unlike a plain await, this does not cancel it when we are cancelled
        self._running.result()
        child = self._keeper.child
        return 0 if was_down or child is None else child.returncode or 0

    async def _keep(self, keeper: Keeper) -> None:
        try:
            await keeper.run()
        except OSError as error:
            log.error("cannot be started", extra={"node": self.name, "error": str(error)})
        finally:
            self._become("down")

    async def _start(self) -> Child:
        self.starts += 1
        self._become("starting")
        command = self.node.having(self.node.settings, self._ports).command()
        with self._log() as log_file:
            return await Child.start(self.name, command, environ=self._environ, stderr=log_file)

    def _log(self) -> AbstractContextManager[IO[bytes] | None]:
        return self._log_file.open("ab") if self._log_file else nullcontext()

    def _heard(self, child: Child, event: dict[str, Any]) -> None:
        self._pids = event.get("pids", self._pids)
        match event.get("event"):
            case "ready":
                self.event = event
                self._ports = event.get("ports", {})  # a gateway comes back where its clients know it
                self._become("ready")
            case "draining":
                self._become("draining")

    async def _buried(self, child: Child) -> None:
        self._pids = {}
        self._become("dead")

    def _stays_down(self, code: int) -> bool:
        return code == 0 or not self.event

    def _become(self, state: State) -> None:
        self.state = state
        self._news.set()

    def _child_runs(self) -> bool:
        child = self._keeper.child if self._keeper else None
        return child is not None and child.returncode is None
