"""Whom a check looks at: a role on this host, with the settings that its service would have."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shoal import tls
from shoal.doctor.host import Host

if TYPE_CHECKING:
    from shoal.settings import GatewaySettings, WorkerSettings

Role = Literal["gateway", "worker", "client"]
SERVICES: tuple[Role, ...] = ("gateway", "worker")
ROLES: tuple[Role, ...] = (*SERVICES, "client")

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # a vendor and a class of PCI


@dataclass(frozen=True)
class Member:
    """Whom discovery names."""

    role: str
    name: str
    internal_url: str


@dataclass(frozen=True)
class Members:
    """What discovery says, or what is wrong with it."""

    members: Sequence[Member] = ()
    problem: str = ""


@dataclass
class Subject:
    """``settings`` are None for a client, and where ``problems`` say why there are none."""

    role: Role
    host: Host
    settings: GatewaySettings | WorkerSettings | None = None
    problems: Sequence[str] = ()
    arguments: Sequence[str] = ()
    gateways: Sequence[str] = ()
    api_key: str | None = None
    _members: asyncio.Task[Members] | None = field(default=None, init=False, repr=False)

    def setting(self, name: str) -> Any:
        """A setting of the role. Checks that ask for one are made only where there are settings."""
        assert self.settings is not None
        return getattr(self.settings, name)

    def files(self, *names: str) -> Sequence[Path]:
        """The files that these settings name, if all do."""
        found = [getattr(self.settings, name, None) for name in names]
        return [path for path in found if path is not None] if None not in found else []

    @property
    def has_gpu(self) -> bool:
        """Whether a card of NVIDIA is on the machine's bus, with a driver or without."""
        for device in self.host.path("/sys/bus/pci/devices").glob("*"):
            vendor, kind = (self.host.text(f"/sys/bus/pci/devices/{device.name}/{n}") for n in ("vendor", "class"))
            if vendor == _NVIDIA and (kind or "").startswith(_DISPLAY):
                return True
        return self.host.path("/dev/nvidia0").exists()

    async def pid(self) -> int | None:
        """The service's main process, if systemd runs it here."""
        ran = await self.host.run("systemctl", "show", "--property=MainPID", "--value", f"shoal-{self.role}")
        pid = ran.output.strip() if ran is not None and ran.code == 0 else ""
        return int(pid) if pid.isdecimal() and int(pid) else None

    async def members(self) -> Members:
        """Whom discovery names; asked once for all checks."""
        if self._members is None:
            self._members = asyncio.create_task(self._ask_discovery())
        return await asyncio.shield(self._members)

    async def _ask_discovery(self) -> Members:
        token = self.setting("discovery_token").get_secret_value() or None
        orders = json.dumps({"url": self.setting("discovery"), "token": token}) + "\n"
        ran = await self.host.run(sys.executable, "-m", "discovery.doctor", orders=orders)
        try:
            answer = json.loads(ran.output if ran else "")
        except ValueError:
            return Members(problem=last_line(ran.complaint if ran else ""))
        if "problem" in answer:
            return Members(problem=answer["problem"])
        return Members([Member(**member) for member in answer["members"]])

    def terms(self, role: str) -> Mapping[str, Any]:
        """How to call an internal listener of that role; without one, any listener."""
        files = self.files("internal_ca", "internal_certificate", "internal_key")
        if not role or not files:
            return {}
        ca, certificate, key = files
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(certificate, key, password="")
        return {"ssl": context, "server_hostname": tls.name_of(role)}

    async def forget(self) -> None:
        """End what is still under way."""
        if self._members is not None:
            self._members.cancel()
            with suppress(asyncio.CancelledError):
                await self._members


def last_line(text: str) -> str:
    """The end of what a program complained of."""
    return (text.strip().splitlines() or ["it ended without a word"])[-1][:200]
