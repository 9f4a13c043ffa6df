"""The playbooks are YAML, each role says what it takes, and takes what it says. (``make rehearsal`` runs them.)"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

from shoal.doctor.consul import policy
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


# Ansible's filters that the expressions below have, as Ansible describes them.
FILTERS: dict[str, Any] = {
    "combine": lambda first, *others: {name: value for each in (first, *others) for name, value in each.items()},
    "dict2items": lambda mapping: [{"key": name, "value": value} for name, value in mapping.items()],
    "items2dict": lambda items: {item["key"]: item["value"] for item in items},
    "hash": lambda text, kind: hashlib.new(kind, text.encode()).hexdigest(),
    "regex_replace": lambda text, old, new: re.sub(old, new, text, count=1),
    "unique": lambda items: list(dict.fromkeys(items)),
}


def _rendered(template: str, **variables: Any) -> Any:
    """A template as Ansible renders it, which is not installed here."""
    environment = NativeEnvironment(trim_blocks=True)
    environment.filters |= FILTERS
    environment.tests["match"] = lambda text, pattern: bool(re.match(pattern, text))
    environment.tests["search"] = lambda text, pattern: bool(re.search(pattern, text))
    return environment.from_string(template).render(**variables)


def _task(path: str, name: str) -> dict[str, Any]:
    """The task of that name in a list of tasks or plays."""
    document = _read(ANSIBLE / path)
    tasks = [task for entry in document for task in entry.get("tasks", [entry])]
    (found,) = [task for task in tasks if task.get("name") == name]
    return dict(found)


def test_a_key_that_is_given_by_its_hash_is_renewed() -> None:
    task = _task("rotate_keys.yml", "Put a new key before each, and let the old ones count still")
    known = [{"name": "alice", "sha256": "a" * 64}, {"name": "operator", "key": "old", "admin": True}]
    entries = _rendered(
        task["ansible.builtin.set_fact"]["rotate_api_keys"],
        secrets_known={"vault_api_keys": known},
        lookup=lambda *_: "new",
    )
    template = (ANSIBLE / "roles/gateway/templates/api-keys.j2").read_text(encoding="utf-8")
    file = _rendered(template, gateway_api_keys=entries, ansible_managed="")
    new, old = (hashlib.sha256(text.encode()).hexdigest() for text in ("new", "old"))
    assert file.splitlines()[1:] == [
        f"alice sha256:{new}",
        f"operator sha256:{new} admin",
        f"alice sha256:{'a' * 64}",
        f"operator sha256:{old} admin",
    ]


@pytest.mark.parametrize(
    ("names", "constraints", "signed"),
    [
        (["DNS:w1", "DNS:worker.shoal", "IP:10.0.0.7"], ["CA:FALSE"], True),
        (["DNS:worker.shoal", "DNS:w1", "IP:10.0.0.7", "DNS:gateway.shoal"], ["CA:FALSE"], False),
        (["DNS:w1", "IP:10.0.0.7"], ["CA:FALSE"], False),
        (["DNS:w1", "DNS:worker.shoal", "IP:10.0.0.7"], ["CA:TRUE"], False),
        (None, None, False),
    ],
)
def test_the_authority_signs_what_is_the_hosts(
    names: list[str] | None, constraints: list[str] | None, signed: bool
) -> None:
    """Names say what a host may do; a host that was taken could ask for any."""
    leaf = _read(ANSIBLE / "roles/certificates/tasks/leaf.yml")
    order = [next(key.rpartition(".")[2] for key in task if "." in key) for task in leaf]
    assert order.index("openssl_csr_info") < order.index("assert") < order.index("x509_certificate_pipe")
    asked = {"signature_valid": True, "basic_constraints": constraints, "subject_alt_name": names or []}
    wanted = {"names": ["DNS:worker.shoal", "DNS:w1", "DNS:w1", "IP:10.0.0.7"]}
    conditions = leaf[order.index("assert")]["ansible.builtin.assert"]["that"]
    held = [_rendered(f"{{{{ {one} }}}}", certificates_asked=asked, certificates_leaf=wanted) for one in conditions]
    assert all(held) is signed


def test_proxies_are_believed_by_their_addresses() -> None:
    default = _defaults(ANSIBLE / "roles/gateway")["gateway_trusted_proxies"]
    assert _rendered(default, gateway_peers=["10.0.0.1", "2001:db8::1", "gateway3.example.org"]) == [
        "10.0.0.1/32",
        "2001:db8::1/128",
    ]


def test_the_load_generators_have_a_key_of_their_own() -> None:
    """Not the operator's, nor one that has been taken back."""
    default = _defaults(ANSIBLE / "roles/generators")["generators_api_key"]
    assert {"name": "load"} in _defaults(ANSIBLE / "roles/secrets")["secrets_api_keys"]
    operator = {"name": "operator", "key": "o", "admin": True}
    keys = [operator, {"name": "load", "key": "new"}, {"name": "load", "key": "old", "retired": True}]
    assert _rendered(default, vault_api_keys=keys).strip() == "new"
    assert _rendered(default, vault_api_keys=[operator]).strip() == ""


def test_locusts_page_which_has_no_login_is_the_leaders_own() -> None:
    unit = (ANSIBLE / "roles/generators/templates/shoal-load-leader.service.j2").read_text(encoding="utf-8")
    assert re.findall(r"--web-host (\S+)", unit) == ["127.0.0.1"]


@pytest.mark.parametrize("role", ["worker", "gateway"])
def test_a_token_may_do_what_the_doctor_advises(role: str) -> None:
    given = _defaults(ANSIBLE / "roles" / "consul")["consul_policies"][role]
    assert given.split() == policy(role, "shoal").split()
