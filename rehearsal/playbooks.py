"""Ansible, run on a lab as its users run it: the playbooks as they are, an inventory, its variables and its vault."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rehearsal.place import Place

FOLDER = Path(__file__).parent.parent / "infra" / "ansible"
_SECONDS = 3600
_RECAP = re.compile(r"^(\w+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class PlaybookFailed(Exception):
    """A playbook ended with another code than 0, and where its output is."""


@dataclass(frozen=True)
class Recap:
    """What Ansible counted for one host: tasks."""

    ok: int
    changed: int
    unreachable: int
    failed: int


@dataclass(frozen=True)
class Played:
    """One run of a playbook."""

    playbook: str
    seconds: float
    hosts: Mapping[str, Recap]

    @property
    def changed(self) -> int:
        return sum(host.changed for host in self.hosts.values())

    @property
    def tasks(self) -> int:
        return sum(host.ok for host in self.hosts.values())


def recap(output: str) -> dict[str, Recap]:
    """What the last lines of a playbook's output count, by host."""
    return {host: Recap(*map(int, counts)) for host, *counts in _RECAP.findall(output)}


class Ansible:
    """``programs`` is the folder with ``ansible-playbook``."""

    def __init__(self, programs: Path, place: Place) -> None:
        self._programs = programs
        self._place = place
        self._password = place.lab / "vault-password"
        self._runs = 0

    def __repr__(self) -> str:
        return f"<Ansible {self._programs}, {self._runs} runs>"

    @property
    def certificates(self) -> Path:
        """The authority that the role certificates makes."""
        return self._place.lab / "certificates" / "ca.pem"

    def describe(self, variables: Mapping[str, Any]) -> None:
        """Write the variables of all hosts, as a user does in group_vars."""
        folder = self._place.lab / "group_vars" / "all"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "main.yml").write_text(json.dumps(variables, indent=2) + "\n", encoding="utf-8")
        if not self._password.exists():
            self._password.touch(mode=0o600)
            self._password.write_text(secrets.token_urlsafe(32), encoding="utf-8")

    def play(self, playbook: str, *arguments: str) -> Played:
        """Run it to its end. Raises ``PlaybookFailed``."""
        self._runs += 1
        log = self._place.lab / f"{self._runs:02}-{playbook}.log"
        command = [self._program("ansible-playbook"), *self._inventory(), str(FOLDER / f"{playbook}.yml"), *arguments]
        began = time.monotonic()
        with log.open("w+", encoding="utf-8") as output:
            ended = subprocess.run(
                command, stdout=output, stderr=output, env=self._environ(), timeout=_SECONDS, check=False
            )
            output.seek(0)
            said = output.read()
        if ended.returncode != 0:
            raise PlaybookFailed(f"{playbook}.yml ended with {ended.returncode}, see {log}:\n{said[-3000:]}")
        return Played(playbook, time.monotonic() - began, recap(said))

    def secrets(self) -> dict[str, Any]:
        """What the vault holds."""
        vault = self._place.lab / "group_vars" / "all" / "vault.yml"
        command = [self._program("ansible-vault"), "view", str(vault)]
        shown = subprocess.run(command, check=True, capture_output=True, env=self._environ())
        found: dict[str, Any] = yaml.safe_load(shown.stdout)
        return found

    def on(self, host: str, command: str) -> str:
        """What a shell command says on that host. Raises ``CalledProcessError``."""
        asked = [self._program("ansible"), *self._inventory(), host, "-o", "-m", "ansible.builtin.shell", "-a", command]
        return subprocess.run(asked, check=True, capture_output=True, text=True, env=self._environ()).stdout

    def _inventory(self) -> tuple[str, str]:
        return "-i", str(self._place.inventory)

    def _program(self, name: str) -> str:
        return str(self._programs / name)

    def _environ(self) -> dict[str, str]:
        ours = {"ANSIBLE_CONFIG": str(FOLDER / "ansible.cfg"), "ANSIBLE_VAULT_PASSWORD_FILE": str(self._password)}
        profile = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "ANSIBLE_NOCOLOR": "1"}
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours | profile
