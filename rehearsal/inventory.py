"""The lab as Ansible sees it: hosts, their addresses and their groups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.network import Host
from rehearsal.place import check_name

# A quorum, two gateways, three workers, on as few hosts as let each be lost alone.
LAYOUT: Mapping[str, tuple[str, ...]] = {
    "c1": ("consul_servers", "gateways"),
    "c2": ("consul_servers", "gateways"),
    "c3": ("consul_servers", "workers", "generators"),
    "w1": ("workers",),
    "w2": ("workers",),
}
_SSH = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"  # a wiped host is another one
# Ansible's own path would be the same for the hosts of all labs, whose addresses are.
_PERSIST = "-o ControlMaster=auto -o ControlPersist=60s -o ControlPath={folder}/ssh-%h"


def parse(hosts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The layout that ``NAME:GROUP,GROUP …`` describes. Raises ``ValueError``."""
    made: dict[str, tuple[str, ...]] = {}
    for text in hosts:
        name, _, groups = text.partition(":")
        if check_name(name) in made:
            raise ValueError(f"{name} is named twice")
        made[name] = tuple(filter(None, groups.split(",")))
    return made


def inventory(layout: Mapping[str, Sequence[str]], hosts: Mapping[str, Host], key: Path) -> str:
    """The inventory, as JSON, which is YAML to Ansible."""
    groups = sorted({group for of_host in layout.values() for group in of_host})
    described: dict[str, Any] = {
        "all": {
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(key),
                "ansible_ssh_common_args": f"{_SSH} {_PERSIST.format(folder=key.parent)}",
                "ansible_python_interpreter": "/usr/bin/python3",
            },
            "hosts": {name: _variables(hosts[name]) for name in layout},
            "children": {group: {"hosts": {name: {} for name in layout if group in layout[name]}} for group in groups},
        }
    }
    return json.dumps(described, indent=2) + "\n"


def _variables(host: Host) -> dict[str, str]:
    return {
        "ansible_host": host.address("internal"),
        "shoal_address": host.address("internal"),
        "shoal_public_address": host.address("public"),
    }
