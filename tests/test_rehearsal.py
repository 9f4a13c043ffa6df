"""What a lab is called, who is in it, and how Ansible is told. (Booting it is ``make rehearsal``.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chaos.network import Host
from rehearsal.inventory import LAYOUT, inventory, parse
from rehearsal.place import Place, check_name


def _host(name: str, number: int) -> Host:
    return Host(name, 1, number, ("internal", "public"))


def test_hosts_and_their_groups_come_from_the_command_line() -> None:
    assert parse(["a1:workers,gateways", "b2"]) == {"a1": ("workers", "gateways"), "b2": ()}


@pytest.mark.parametrize("name", ["", "1a", "A", "a-b", "../x", "a" * 13])
def test_a_name_is_short_and_plain(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        check_name(name)


def test_no_host_is_named_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse(["a:workers", "a:gateways"])


def test_ansible_reads_hosts_addresses_and_groups() -> None:
    layout = {"a": ("workers", "gateways"), "b": ("workers",)}
    hosts = {"a": _host("a", 1), "b": _host("b", 2)}
    described = yaml.safe_load(inventory(layout, hosts, Path("/key")))["all"]
    assert described["hosts"]["b"] == {
        "ansible_host": "10.77.0.2",
        "shoal_address": "10.77.0.2",
        "shoal_public_address": "10.78.0.2",
    }
    assert described["children"] == {"gateways": {"hosts": {"a": {}}}, "workers": {"hosts": {"a": {}, "b": {}}}}
    assert described["vars"]["ansible_ssh_private_key_file"] == "/key"


def test_labs_share_no_ssh_connection() -> None:
    hosts = {"a": _host("a", 1)}
    one, other = (inventory({"a": ()}, hosts, Path(f"/{lab}/id")) for lab in ("one", "other"))
    assert "ControlPath=/one/ssh-%h" in one
    assert "ControlPath=/other/ssh-%h" in other


def test_the_standard_lab_has_a_quorum_and_two_of_everything_else_that_serves() -> None:
    groups = [group for of_host in LAYOUT.values() for group in of_host]
    assert groups.count("consul_servers") == 3
    assert groups.count("gateways") >= 2
    assert groups.count("workers") >= 3


def test_labs_share_a_root_and_nothing_of_their_own() -> None:
    one, other = Place(Path("/f"), "one"), Place(Path("/f"), "other")
    assert one.root == other.root
    assert one.lab != other.lab
    assert one.socket.parent == one.lab
