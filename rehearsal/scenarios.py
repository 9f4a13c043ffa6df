"""What is rehearsed: the life of a fleet, from bare hosts to the loss of some, by the playbooks as they are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rehearsal.cluster import Cluster, wait_until
from rehearsal.control import ask
from rehearsal.load import Sent, load
from rehearsal.place import Place
from rehearsal.playbooks import Ansible, PlaybookFailed, Played
from rehearsal.report import Step
from shoal.errors import ShoalError

# A closed loop: where hosts and load share a machine, an open one would find it too slow to send what is due.
_LOAD = ("--users", "6", "--spawn-rate", "6", "--wait", "0.3", "--mode", "both", "--timeout", "30", "--pictures", "4")
_LEAST_LOAD_SECONDS = 20.0
_READY_SECONDS = 120.0
_LEADER_SECONDS = 60.0

_RELEASES = "/opt/shoal/releases"
_OF_LONG_AGO = {"0.0.1": "2001-01-01", "0.0.2": "2002-01-01"}
"""Releases that one host is made to have. With the two of an update there is place for the later of them."""

_LONGER_DRAIN = {"worker_stop_seconds": 150}
"""What the next release changes in a unit."""


@dataclass
class Stage:
    """Everything a scenario acts on. ``versions`` are the release that is installed first and the one after it."""

    place: Place
    layout: Mapping[str, tuple[str, ...]]
    ansible: Ansible
    variables: dict[str, object]
    versions: tuple[str, str]

    def hosts(self, group: str) -> list[str]:
        return [host for host, groups in self.layout.items() if group in groups]

    def cluster(self) -> Cluster:
        described = json.loads(self.place.inventory.read_text(encoding="utf-8"))["all"]["hosts"]
        hosts = [described[host] for host in self.hosts("gateways")]
        entrances = tuple(f"https://{host['shoal_public_address']}" for host in hosts)
        gateways = tuple(f"https://{host['shoal_address']}:8080" for host in hosts)
        key = next(key["key"] for key in self.ansible.secrets()["vault_api_keys"] if key.get("admin"))
        return Cluster(entrances, gateways, key, self.ansible.certificates)

    def describe(self, version: str) -> None:
        """Have the inventory say that this version is wanted."""
        self.ansible.describe(self.variables | {"shoal_version": version})

    @contextmanager
    def loaded(self, step: Step, name: str) -> Iterator[Sent]:
        """Load the cluster through nginx and directly, and check that nothing failed."""
        cluster, began = self.cluster(), time.monotonic()
        with load(self.place.lab, name, cluster.entrances, cluster.api_key, *_LOAD) as sent:
            yield sent
            time.sleep(max(0.0, _LEAST_LOAD_SECONDS - (time.monotonic() - began)))
        failures = "; ".join(sent.failures[:3])
        step.check("0 failed under load", f"{sent.failed} of {sent.requests} {failures}".strip(), sent.failed == 0)
        step.check("there was load", f"{sent.requests} requests", sent.requests > 0)


def from_bare(stage: Stage, step: Step) -> None:
    stage.describe(stage.versions[0])
    _tell(step, stage.ansible.play("secrets"))
    _tell(step, stage.ansible.play("site"))
    ready = stage.cluster().ready()
    step.check("every worker takes requests", ", ".join(ready), ready == stage.hosts("workers"))


def predictions(stage: Stage, step: Step) -> None:
    cluster = stage.cluster()
    for mode, urls, what in (
        ("proxy", cluster.entrances, "through nginx"),
        ("proxy", cluster.gateways, "through a gateway's own proxy"),
        ("direct", cluster.entrances, "directly"),
    ):
        for url in urls:
            try:
                answer = cluster.predict("direct" if mode == "direct" else "proxy", url)
                step.check(f"a picture is predicted {what}", f"by {answer.worker}, {url}", answer.path == mode)
            except ShoalError as error:
                step.check(f"a picture is predicted {what}", f"{error}, {url}", False)


def again(stage: Stage, step: Step) -> None:
    played = stage.ansible.play("site")
    step.check("the second run changes nothing", f"{played.changed} of {played.tasks} tasks", played.changed == 0)
    dry = stage.ansible.play("site", "--check")
    step.check("nor would a third", f"{dry.changed} of {dry.tasks} tasks, {dry.seconds:.0f} s", dry.changed == 0)


def rolling(stage: Stage, step: Step) -> None:
    stage.describe(stage.versions[1])
    host = stage.hosts("workers")[0]
    for version, day in _OF_LONG_AGO.items():
        stage.ansible.on(host, f"mkdir {_RELEASES}/{version} && touch --date {day} {_RELEASES}/{version}")
    with stage.loaded(step, "rolling"):
        _tell(step, stage.ansible.play("rolling", "--extra-vars", json.dumps(_LONGER_DRAIN)))
    _check_version(stage, step, stage.versions[1])
    _check_drain(stage, step, "2min 30s")
    listed = stage.ansible.on(host, f"ls {_RELEASES}")
    left = [version for version in _OF_LONG_AGO if version in listed]
    step.check("the oldest release has been removed", f"{' '.join(left)} is left", left == ["0.0.2"])


def rollback(stage: Stage, step: Step) -> None:
    stage.describe(stage.versions[0])
    with stage.loaded(step, "rollback"):
        _tell(step, stage.ansible.play("rollback"))
    _check_version(stage, step, stage.versions[0])
    _check_drain(stage, step, "2min")


def bad_update(stage: Stage, step: Step) -> None:
    """An update that does not start: its worker is asked for a model that there is none of."""
    stage.describe(stage.versions[1])
    first, *others = stage.hosts("workers")
    with stage.loaded(step, "bad"):
        try:
            stage.ansible.play(
                "rolling", "--extra-vars", json.dumps({"worker_settings": {"models": ["no-such-model"]}})
            )
            stopped = False
        except PlaybookFailed:
            stopped = True
        step.check("`rolling.yml` stops", f"at {first}", stopped)
        ready = stage.cluster().ready()
        step.check("the other workers go on", ", ".join(ready), set(others) <= set(ready))
        stage.describe(stage.versions[0])
        _tell(step, stage.ansible.play("rollback"))
    _check_version(stage, step, stage.versions[0])


def rotate_keys(stage: Stage, step: Step) -> None:
    """Every key at once. The load keeps its API key, which counts until it is taken back."""
    with stage.loaded(step, "keys"):
        _tell(step, stage.ansible.play("rotate_keys"))
    _tell(step, stage.ansible.play("rotate_keys", "--tags", "retire_api_keys"))
    kept = len(stage.ansible.secrets()["vault_ticket_keys"])
    step.check("the old ticket key is forgotten", f"{kept} in the vault", kept == 1)
    predictions(stage, step)


def rebuild(stage: Stage, step: Step) -> None:
    host = stage.hosts("workers")[-1]
    ask(stage.place, "wipe", host)
    _tell(step, stage.ansible.play("site", "--limit", host))
    cluster = stage.cluster()
    taken = wait_until(lambda: cluster.ready() == stage.hosts("workers"), _READY_SECONDS)
    step.check(f"{host}, destroyed, takes requests again", f"{taken:.0f} s after the playbook", True)


def rebuild_server(stage: Stage, step: Step) -> None:
    """Its nginx, its gateway, and its Consul with what that stored."""
    host, first = stage.hosts("gateways")[-1], stage.hosts("consul_servers")[0]
    ask(stage.place, "wipe", host)
    _tell(step, stage.ansible.play("site", "--limit", host))
    predictions(stage, step)
    peers = stage.ansible.on(first, "curl --silent http://127.0.0.1:8500/v1/status/peers").count(":8300")
    step.check("Consul has its servers again", f"{peers}", peers == len(stage.hosts("consul_servers")))


def leader_lost(stage: Stage, step: Step) -> None:
    """SIGKILL to the leader's agent, which stays away until there is another leader."""
    servers = stage.hosts("consul_servers")
    leader = _leader(stage, servers)
    others = [host for host in servers if host != leader]
    with stage.loaded(step, "leader"):
        stage.ansible.on(leader, "systemctl mask --runtime consul && systemctl kill --signal=KILL consul")
        taken = wait_until(lambda: _leader(stage, others) not in (leader, ""), _LEADER_SECONDS)
        stage.ansible.on(leader, "systemctl unmask --runtime consul && systemctl start consul")
    step.check("there is another leader", f"{_leader(stage, others)} after {leader}, {taken:.0f} s", True)
    wait_until(lambda: _leader(stage, [leader]) != "", _LEADER_SECONDS)


SCENARIOS: Mapping[str, tuple[str, Callable[[Stage, Step], None]]] = {
    "site": ("bare Debian to a cluster, `secrets.yml` and `site.yml`", from_bare),
    "predictions": ("predictions, with TLS", predictions),
    "again": ("`site.yml` again, and with `--check`", again),
    "rolling": ("`rolling.yml` to the next version, under load", rolling),
    "rollback": ("`rollback.yml` to the version before, under load", rollback),
    "bad_update": ("`rolling.yml` to a version that does not start, then `rollback.yml`, under load", bad_update),
    "rotate_keys": ("`rotate_keys.yml`, all keys, under load", rotate_keys),
    "rebuild": ("a worker's host destroyed, then `site.yml --limit`", rebuild),
    "rebuild_server": ("the host of a Consul server, a gateway and nginx destroyed, then the same", rebuild_server),
    "leader": ("the Consul leader killed, under load", leader_lost),
}


def _tell(step: Step, played: Played) -> None:
    failed = sum(host.failed + host.unreachable for host in played.hosts.values())
    step.check(f"`{played.playbook}.yml` ends well", f"{played.tasks} tasks, {played.seconds:.0f} s", failed == 0)


def _check_version(stage: Stage, step: Step, version: str) -> None:
    """By their own word: what is installed is not yet what runs."""
    running = sorted(set(stage.cluster().versions()))
    step.check(f"every worker and gateway runs {version}", ", ".join(running), running == [version])


def _check_drain(stage: Stage, step: Step, longest: str) -> None:
    """A release brings its unit, and takes it with it."""
    said = stage.ansible.on(stage.hosts("workers")[0], "systemctl show --property TimeoutStopUSec shoal-worker")
    found = said.rpartition("=")[2].strip()
    step.check(f"the unit gives a drain {longest}", found, found == longest)


def _leader(stage: Stage, servers: list[str]) -> str:
    """The inventory name of the leader that these servers know, or nothing."""
    addresses = json.loads(stage.place.inventory.read_text(encoding="utf-8"))["all"]["hosts"]
    said = stage.ansible.on(servers[0], "curl --silent --max-time 2 http://127.0.0.1:8500/v1/status/leader || true")
    return next((host for host in addresses if f'"{addresses[host]["shoal_address"]}:' in said), "")


def logs_of(place: Place, target: Path) -> None:
    """Keep what playbooks and load have written."""
    target.mkdir(parents=True, exist_ok=True)
    for log in place.lab.glob("*.log"):
        (target / log.name).write_bytes(log.read_bytes())
