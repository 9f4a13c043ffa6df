"""A real Consul on the loopback: three servers, and client agents that carry the registrations of many workers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from chaos.consul import Agent, Quorum
from chaos.network import Host, Subnet

_SERVERS = 3


@dataclass(frozen=True)
class Loopback(Host):
    """A host that is an address of the loopback, so that each agent can have the usual ports."""

    network: int = 0

    @property
    def prefix(self) -> tuple[str, ...]:
        return ()

    def address(self, subnet: Subnet) -> str:
        return f"127.77.{self.network}.{self.number}"


class LocalAgent(Agent):
    """An agent that listens at the address of its host alone, to any number of clients."""

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        limits = {"http_max_conns_per_client": 5_000}
        here = {"client_addr": self.host.address("internal"), "limits": limits}
        return settings | here | {"performance": {"raft_multiplier": 5}}  # its default: this machine is busy


@asynccontextmanager
async def local_quorum(binary: str, folder: Path, clients: int) -> AsyncIterator[Quorum]:
    """Three servers and so many client agents; all are killed on leaving."""
    network = random.randint(1, 254)
    hosts = [
        Loopback(f"{'server' if number <= _SERVERS else 'client'}{number}", 0, number, ("internal",), network)
        for number in range(1, _SERVERS + clients + 1)
    ]
    async with ClientSession() as session:
        quorum = Quorum([LocalAgent(binary, host, folder, hosts[:_SERVERS]) for host in hosts], session)
        try:
            await quorum.start_all()
            yield quorum
        finally:
            await quorum.kill_all()
