"""The first boot of an instance: an image that is the same for all becomes a certain host of a certain cluster.

What it is stands in the user data (``instance.json``), where it is in the instance's metadata, and its secrets in the
Parameter Store, each under the name of the file that it becomes: PATH/ROLE/shoal/ticket.key is /etc/shoal/ticket.key,
and PATH/common/… goes to every host. Secrets are fetched again from time to time; services follow their files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cloud.aws import Parameters
from cloud.errors import CloudError
from cloud.instance import Instance
from shoal.files import write_whole

_SECRET = 0o640
_PUBLIC = 0o644

CONSUL = "consul.d/shoal.d"
"""Where the agent reads settings over those of the image (the role consul's unit says so), below /etc."""

_PRIVATE = {
    "public": "false",
    "public_url": "",
    "certificate": "/etc/shoal/tls/internal.pem",
    "certificate_key": "/etc/shoal/tls/internal.key",
}
"""A worker whose images come through nginx: no client reaches it, and no certificate of its own names it."""

UNITS = {
    "consul": ("consul", "shoal-consul-access"),
    "gateway": ("consul", "shoal-gateway", "shoal-nginx", "nginx.path", "shoal-scale"),
    "worker": ("consul", "shoal-redis", "shoal-worker"),
}
"""What runs on a host, by its role."""


@dataclass(frozen=True)
class Described:
    """The user data: what Terraform says of an instance."""

    cluster: str
    role: str
    region: str
    parameters: str
    settings: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Described:
        """Raises ``CloudError``."""
        try:
            document: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
            said = {name: document.pop(name) for name in ("cluster", "role", "region", "parameters")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CloudError(f"{file}: {error!r}") from error
        if said["role"] not in UNITS:
            raise CloudError(f"{file}: role {said['role']} is none of {', '.join(UNITS)}")
        return cls(**said, settings=document)

    @property
    def group(self) -> str:
        """The auto-scaling group that the instance belongs to."""
        return f"{self.cluster}-{self.role}"


def fetch(described: Described, parameters: Parameters, etc: Path) -> list[str]:
    """Write the host's secrets, and return the names of those that are new. Raises ``CloudError``."""
    changed = []
    for part in ("common", described.role):
        for name, text in sorted(parameters.below(f"{described.parameters}/{part}").items()):
            path = PurePosixPath(name)
            if ".." in path.parts:
                raise CloudError(f"parameter {name} is no name of a file")
            if _write(etc / path, text, _SECRET):
                changed.append(name)
    return changed


def describe(described: Described, instance: Instance, etc: Path) -> None:
    """Write what is particular to this host and not secret. Raises ``CloudError``."""
    _write(etc / CONSUL / "zz-instance.json", json.dumps(_consul(described, instance), indent=2) + "\n", _PUBLIC)
    for service, variables in _services(described, instance).items():
        lines = "".join(f'SHOAL_{service.upper()}_{name.upper()}="{value}"\n' for name, value in variables.items())
        _write(etc / "shoal" / f"{service}.instance.env", lines, _PUBLIC)


def _consul(described: Described, instance: Instance) -> dict[str, Any]:
    """Settings of the agent, over those of the image: Consul reads its files in the order of their names."""
    found = f"provider=aws region={described.region} tag_key=Name tag_value={described.cluster}-consul"
    agent: dict[str, Any] = {
        "node_name": f"{described.role}-{instance.id}",  # the token of its agent may write these names alone
        "bind_addr": instance.ip,
        "advertise_addr": instance.ip,
        "retry_join": [found],
        "server": described.role == "consul",
    }
    return agent | {"bootstrap_expect": int(described.settings["consul_servers"])} if agent["server"] else agent


def _services(described: Described, instance: Instance) -> dict[str, dict[str, str]]:
    """Settings of each service, over those of the image: the environment goes before the file."""
    if described.role == "consul":
        return {}
    own = {"name": instance.id, "zone": instance.zone, "host": instance.ip, "internal_host": instance.ip}
    if described.role == "gateway":
        return {
            "gateway": own | {"trusted_proxies": described.settings["network"]},
            "nginx": {"server_name": described.settings["domain"]},
        }
    return {"worker": own | _PRIVATE | {"models": described.settings["models"]}}


def _write(path: Path, text: str, mode: int) -> bool:
    """Write a file that belongs to the group of its folder; False when it is like that already."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    write_whole(path, text, mode=mode)
    if os.geteuid() == 0:
        os.chown(path, 0, path.parent.stat().st_gid)
    return True
