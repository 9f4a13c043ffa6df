"""What a lab is called, who is in it, and how Ansible is told. (Booting it is ``make rehearsal``.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chaos.network import Host
from rehearsal.inventory import LAYOUT, inventory, parse
from rehearsal.load import Sent
from rehearsal.place import Place, check_name
from rehearsal.playbooks import Recap, recap
from rehearsal.report import BEGIN, END, Step, insert, section


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


def test_ansible_s_recap_is_read() -> None:
    output = "\n".join(
        [
            "PLAY RECAP ***",
            "c1                         : ok=74   changed=37   unreachable=0    failed=1    skipped=8    rescued=0",
            "localhost                  : ok=2    changed=0    unreachable=0    failed=0    skipped=0    rescued=0",
        ]
    )
    assert recap(output) == {"c1": Recap(74, 37, 0, 1), "localhost": Recap(2, 0, 0, 0)}


def test_locust_s_counts_are_read() -> None:
    statistics = "Type,Name,Request Count,Failure Count,Max Response Time\nPOST,a,3,1,250\n,Aggregated,5,1,1500\n"
    failures = "Method,Name,Error,Occurrences\nPOST,a,queue_full,1\n"
    sent = Sent()
    sent.read(statistics, failures)
    assert sent == Sent(requests=5, failed=1, worst_seconds=1.5, failures=["1 queue_full"])


def test_a_report_names_what_does_not_hold() -> None:
    step = Step("again", "the second run", 61.2)
    step.check("changes nothing", "2 tasks", holds=False)
    facts = {"when": "today", "machine": "2 cores", "ansible": "1", "consul": "2", "model": "fake", "hosts": "Six."}
    page = insert(f"before\n{BEGIN}\nof yesterday\n{END}\nafter\n", section(facts, [step]))
    assert "| the second run | 61 | changes nothing | 2 tasks | **no** |" in page
    assert "of yesterday" not in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")


def test_a_step_without_checks_holds_nothing() -> None:
    assert not Step("again", "the second run").holds


def test_a_page_without_a_place_for_the_report_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks"):
        insert("a page", "a section")
