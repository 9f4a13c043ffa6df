"""A real Consul quorum: three servers, and a client agent on every host that registers a service."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from chaos.network import Host
from shoal.processes import bound

SERVICE = "shoal-worker"

_START_SECONDS = 40.0


class Agent:
    """One Consul agent in its host; a server when ``servers`` names it."""

    def __init__(self, binary: str, host: Host, folder: Path, servers: Sequence[Host]) -> None:
        self.host = host
        self.is_server = host in servers
        self._binary = binary
        self._folder = folder / host.name
        self._servers = servers
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Agent {self.host.name} {'server' if self.is_server else 'client'}>"

    @property
    def url(self) -> str:
        return f"http://{self.host.address('internal')}:8500"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = self._folder / "consul.json"
        settings.write_text(json.dumps(self._settings()), encoding="utf-8")
        command = bound([*self.host.prefix, self._binary, "agent", "-config-file", str(settings)])
        with (self._folder / "consul.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=log, stderr=log)

    async def kill(self) -> None:
        """SIGKILL, and wait until it has ended."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    def forget(self) -> None:
        """Delete what it has stored; it must not run."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def _settings(self) -> dict[str, Any]:
        address = self.host.address("internal")
        settings: dict[str, Any] = {
            "node_name": self.host.name,
            "bind_addr": address,
            "client_addr": f"127.0.0.1 {address}",
            "data_dir": str(self._folder / "data"),
            "retry_join": [server.address("internal") for server in self._servers],
            "retry_interval": "1s",
            "disable_update_check": True,
            "ports": {"dns": -1, "grpc": -1, "serf_wan": -1} | ({"grpc_tls": -1} if self._is_recent() else {}),
            "performance": {"raft_multiplier": 1},
            "leave_on_terminate": False,
        }
        if self.is_server:
            settings |= {"server": True, "bootstrap_expect": len(self._servers)}
        return settings

    def _is_recent(self) -> bool:
        answer = subprocess.run([self._binary, "version"], check=True, capture_output=True, text=True).stdout
        numbers = re.search(r"v(\d+)\.(\d+)", answer)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (1, 14)


class Quorum:
    """All agents. Construct with ``quorum``."""

    def __init__(self, agents: Sequence[Agent], session: ClientSession) -> None:
        self.agents = agents
        self._session = session

    def __repr__(self) -> str:
        return f"<Quorum of {len(self.servers)} servers, {len(self.agents) - len(self.servers)} clients>"

    @property
    def servers(self) -> list[Agent]:
        return [agent for agent in self.agents if agent.is_server]

    async def start_all(self, *, empty: bool = False) -> None:
        """Start every agent, ``empty`` or with what it had stored, and wait until a write succeeds."""
        for agent in self.agents:
            if empty:
                agent.forget()
        await asyncio.gather(*(agent.start() for agent in self.agents))
        await self.until_writable()

    async def kill_all(self) -> None:
        await asyncio.gather(*(agent.kill() for agent in self.agents))

    async def until_writable(self) -> float:
        """Wait until a write goes through a leader. Returns the seconds that it took; raises ``TimeoutError``."""
        began = time.monotonic()
        async with asyncio.timeout(_START_SECONDS):
            while True:
                for server in self.servers:
                    with suppress(ClientError, TimeoutError):
                        if await self._call(server, "PUT", "/v1/kv/chaos", timeout=2) is True:
                            return time.monotonic() - began
                await asyncio.sleep(0.1)

    async def leader(self) -> Agent:
        """The server that leads. Raises ``LookupError`` when none does."""
        for server in self.servers:
            with suppress(ClientError, TimeoutError):
                address = str(await self._call(server, "GET", "/v1/status/leader")).partition(":")[0]
                for candidate in self.servers:
                    if candidate.host.address("internal") == address:
                        return candidate
        raise LookupError("no Consul server leads")

    async def passing(self) -> set[str]:
        """The names of the workers that Consul believes in."""
        for server in self.servers:
            with suppress(ClientError, TimeoutError):
                found = await self._call(server, "GET", f"/v1/health/service/{SERVICE}?passing=true")
                return {entry["Service"]["Meta"]["name"] for entry in found or []}
        return set()

    async def _call(self, agent: Agent, method: str, path: str, *, timeout: float = 1.0) -> Any:
        async with self._session.request(method, agent.url + path, timeout=ClientTimeout(total=timeout)) as response:
            response.raise_for_status()
            return await response.json(content_type=None)


@asynccontextmanager
async def quorum(binary: str, folder: Path, servers: Sequence[Host], clients: Sequence[Host]) -> AsyncIterator[Quorum]:
    """Start a quorum; all of it is killed on leaving."""
    async with ClientSession() as session:
        agents = Quorum([Agent(binary, host, folder, servers) for host in (*servers, *clients)], session)
        try:
            await agents.start_all()
            yield agents
        finally:
            await agents.kill_all()
