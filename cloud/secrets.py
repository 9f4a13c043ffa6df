"""The secrets of a cluster on AWS, made once by its operator: a folder of files, by role, which ``shoal cloud put``
takes to the Parameter Store. Each file becomes one of the same name below /etc on the hosts of its role (``boot.py``).

Hosts of one role are equal, so they share a certificate of the internal CA: what it says is the role. The key of the CA
stays in the operator's folder, and is on no host.
"""

from __future__ import annotations

import base64
import json
import shutil
import uuid
from pathlib import Path
from secrets import token_bytes

from cloud.boot import CONSUL
from cloud.errors import CloudError
from shoal import certificates, keys, tickets
from shoal.files import write_whole

CA = "ca"
AGENTS = ("consul", "gateway", "worker")
TOKENS = (*(f"agent-{role}" for role in AGENTS), "worker", "gateway", "nginx", "publisher")
"""Policies of the playbooks' role consul, and one for the agents of each role; each has one token."""

_LOCAL = ("localhost", "127.0.0.1")


def make(folder: Path, domain: str, public: tuple[Path, Path] | None, *, datacenter: str = "dc1") -> str:
    """Write all secrets into ``folder``, which must not exist; return the operator's API key, which is nowhere else.

    ``public`` are the public name's certificate with its chain, and its key; none: the internal CA issues one, which
    clients do not know. Raises ``CloudError``.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError as error:
        raise CloudError(f"{folder} exists: secrets are made once") from error
    tokens = {name: str(uuid.uuid4()) for name in (*TOKENS, "management")}
    _consul(folder, tokens)
    _certificates(folder, domain, public, datacenter)
    gateway, worker = folder / "gateway" / "shoal", folder / "worker" / "shoal"
    tickets.generate(gateway / "ticket.key", worker / "ticket-keys.json")
    operator = keys.add(gateway / "api-keys", "operator", is_admin=True)
    _write(gateway / "scaler.key", keys.add(gateway / "api-keys", "scaler", is_admin=False) + "\n")
    for role, service in (("gateway", "gateway"), ("gateway", "nginx"), ("worker", "worker")):
        variable = f"SHOAL_{service.upper()}_DISCOVERY_TOKEN"
        _write(folder / role / "shoal" / f"{service}.env", f'{variable}="{tokens[service]}"\n')
    return operator


def _consul(folder: Path, tokens: dict[str, str]) -> None:
    gossip = base64.b64encode(token_bytes(32)).decode()
    _write(folder / "common" / CONSUL / "gossip.json", json.dumps({"encrypt": gossip}) + "\n")
    for role in AGENTS:
        known = {"agent": tokens[f"agent-{role}"]}
        if role == "consul":
            known["initial_management"] = tokens["management"]
        _write(folder / role / CONSUL / "tokens.json", json.dumps({"acl": {"tokens": known}}) + "\n")
    for name, token in tokens.items():
        _write(folder / "consul" / "shoal" / "tokens" / name, token + "\n")


def _certificates(folder: Path, domain: str, public: tuple[Path, Path] | None, datacenter: str) -> None:
    authority = folder / CA
    issued = {
        "gateway/shoal/tls/internal": ("gateway", ("gateway", "nginx"), ()),
        "worker/shoal/tls/internal": ("worker", ("worker",), ()),
        "consul/consul.d/tls/agent": ("server", ("consul",), (f"server.{datacenter}.consul", *_LOCAL)),
        "gateway/consul.d/tls/agent": ("gateway-agent", ("consul",), _LOCAL),
        "worker/consul.d/tls/agent": ("worker-agent", ("consul",), _LOCAL),
    }
    if public is None:
        issued["gateway/shoal/tls/public"] = ("public", (), (domain,))
    for target, (name, roles, addresses) in issued.items():
        certificates.issue(authority, certificates.Wanted(name, roles, addresses))
        for end in ("pem", "key"):
            _copy(authority / f"{name}.{end}", folder / f"{target}.{end}")
    for target in ("shoal/tls/ca.pem", "consul.d/tls/ca.pem"):
        _copy(authority / "ca.pem", folder / "common" / target)
    if public is not None:
        for source, end in zip(public, ("pem", "key"), strict=True):
            _copy(source, folder / "gateway" / "shoal" / "tls" / f"public.{end}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text, mode=0o600)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)
