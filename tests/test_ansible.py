"""The playbooks are YAML, each role says what it takes, and takes what it says. (``make rehearsal`` runs them.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.consul_server import ROOT

ANSIBLE = ROOT / "infra" / "ansible"
ROLES = sorted(path for path in (ANSIBLE / "roles").iterdir() if path.is_dir())
FILES = sorted(path for path in ANSIBLE.rglob("*.yml") if "molecule" not in path.parts)
# How Ansible's types read in YAML, before templates are filled in.
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int, str),
    "bool": (bool, str),
    "list": (list, str),
    "dict": (dict, str),
    "float": (float, int, str),
    "raw": (object,),
}


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _specs(role: Path) -> dict[str, Any]:
    specs: dict[str, Any] = _read(role / "meta" / "argument_specs.yml")["argument_specs"]
    return specs


def _defaults(role: Path) -> dict[str, Any]:
    return _read(role / "defaults" / "main.yml") or {}


def _short(path: Path) -> str:
    return str(path.relative_to(ANSIBLE))


@pytest.mark.parametrize("path", FILES, ids=_short)
def test_a_file_is_yaml(path: Path) -> None:
    assert _read(path)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_default_is_an_argument_of_its_type(role: Path) -> None:
    options = {name: option for spec in _specs(role).values() for name, option in spec.get("options", {}).items()}
    for name, default in _defaults(role).items():
        assert name in options, f"{name} is not described"
        assert isinstance(default, TYPES[options[name].get("type", "str")]), f"{name} is {default!r}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_an_argument_is_required_or_has_a_default(role: Path) -> None:
    options = _specs(role)["main"]["options"]
    assert {name for name, option in options.items() if not option.get("required")} <= set(_defaults(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_roles_variables_begin_with_its_name(role: Path) -> None:
    named = {name for name in _defaults(role) if not name.startswith((f"{role.name}_", "shoal_"))}
    assert not named


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_an_argument_says_what_it_is(role: Path) -> None:
    for entry, spec in _specs(role).items():
        assert spec["short_description"], entry
        assert all(option.get("description") for option in spec.get("options", {}).values()), entry


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_secret_is_never_shown(role: Path) -> None:
    """What comes from the vault by default is an argument that Ansible does not print."""
    options = {name: option for spec in _specs(role).values() for name, option in spec.get("options", {}).items()}
    from_vault = [name for name, default in _defaults(role).items() if "vault_" in str(default)]
    assert [name for name in from_vault if not options[name].get("no_log")] == []
