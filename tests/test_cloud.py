"""A host on AWS: its boot, its life in its group and its part in scaling, with moto in place of AWS."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from cloud import aws, boot, scaling, secrets
from cloud.__main__ import main
from cloud.errors import CloudError
from cloud.instance import Instance
from tests.aws_instance import Surroundings, instance_document, surroundings
from tests.clusters import eventually, up
from tests.consul_server import ROOT, ConsulServer, find_consul, free_port
from tests.needs import need

REGION = "eu-central-1"
PACKER = ROOT / "infra" / "packer" / "files"
CLOUD = [sys.executable, "-m", "cloud"]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The URL of a moto server."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    ) as process:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{url}/moto-api/", timeout=5):
                    return True
            except (urllib.error.URLError, OSError):
                return False

        try:
            eventually(answers, within=60, what="moto answers")
            yield url
        finally:
            process.terminate()


@pytest.fixture
def account(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """An empty account: a client of a service, by its name."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    with urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST"), timeout=10):
        yield lambda service: boto3.client(service, region_name=REGION)


@pytest.fixture
def around() -> Iterator[Surroundings]:
    with surroundings() as found:
        yield found


@contextmanager
def following(around: Surroundings, tmp_path: Path, leave: str) -> Iterator[subprocess.Popen[bytes]]:
    """``shoal cloud lifecycle`` on a worker that is useful when the file ``ready`` is there."""
    described = tmp_path / "shoal" / "instance.json"
    described.parent.mkdir()
    described.write_text(instance_document("worker"))
    arguments: list[str | Path] = [
        "--etc",
        tmp_path,
        "--metadata",
        around.address,
        "--pause",
        "0.05",
        "--heartbeat",
        "0.1",
    ]
    orders = ["--ready", f"test -e {tmp_path / 'ready'}", "--leave", leave]
    environ = {**os.environ, **around.environ}
    with subprocess.Popen([*CLOUD, "lifecycle", *arguments, *orders], env=environ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_an_instance_says_when_it_is_useful_and_leaves_when_its_group_terminates_it(
    around: Surroundings, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    leave = f"sh -c 'while [ ! -e {gone} ]; do sleep 0.05; done; touch {tmp_path / 'left'}'"
    with following(around, tmp_path, leave) as process:
        eventually(lambda: around.tokens, within=30, what="it asks what it is")
        assert around.asked == []
        (tmp_path / "ready").touch()
        eventually(lambda: around.asked == [("CompleteLifecycleAction", "useful")], within=30, what="it is useful")
        around.waiting.add("drained")
        around.metadata["autoscaling/target-lifecycle-state"] = "Terminated"
        sign = ("RecordLifecycleActionHeartbeat", "drained")
        eventually(lambda: around.asked.count(sign) >= 2, within=30, what="the group hears that it still drains")
        assert ("CompleteLifecycleAction", "drained") not in around.asked
        gone.touch()
        assert process.wait(30) == 0
    assert (tmp_path / "left").exists()
    assert around.asked[-1] == ("CompleteLifecycleAction", "drained")
    assert around.waiting == set()


def test_an_instance_leaves_on_a_spot_notice_though_no_group_waits(around: Surroundings, tmp_path: Path) -> None:
    with following(around, tmp_path, f"touch {tmp_path / 'left'}") as process:
        eventually(lambda: around.tokens, within=30, what="it asks what it is")
        around.metadata["spot/instance-action"] = json.dumps({"action": "terminate", "time": "2030-01-01T00:00:00Z"})
        assert process.wait(30) == 0
    assert (tmp_path / "left").exists()
    assert around.asked == []


def test_an_instance_whose_metadata_fails_for_a_while_goes_on(around: Surroundings, tmp_path: Path) -> None:
    around.failing = 3
    (tmp_path / "ready").touch()
    with following(around, tmp_path, "false") as process:
        eventually(lambda: around.asked, within=30, what="it is useful")
        around.failing = 3
        around.tokens += 1  # the token that it has expires
        around.metadata["autoscaling/target-lifecycle-state"] = "Terminated"
        assert process.wait(30) == 1, "it says that it did not leave in good order"


def test_an_instance_that_cannot_say_that_it_is_useful_leaves_when_it_must(
    around: Surroundings, tmp_path: Path
) -> None:
    around.denied.add("useful")
    (tmp_path / "ready").touch()
    with following(around, tmp_path, f"touch {tmp_path / 'left'}") as process:
        refused = ("CompleteLifecycleAction", "useful")
        eventually(lambda: around.asked.count(refused) >= 2, within=30, what="it says so again")
        around.waiting.add("drained")
        around.metadata["autoscaling/target-lifecycle-state"] = "Terminated"
        assert process.wait(30) == 0
    assert (tmp_path / "left").exists()
    assert around.asked[-1] == ("CompleteLifecycleAction", "drained")


def test_what_an_instance_knows_of_itself(around: Surroundings) -> None:
    instance = Instance(around.address)
    assert (instance.id, instance.ip, instance.zone, instance.leaving()) == ("i-1", "10.0.0.7", "eu-test-1a", "")
    assert around.tokens == 1
    del around.metadata["local-ipv4"]
    with pytest.raises(CloudError, match="no local-ipv4"):
        _ = instance.ip
    with pytest.raises(CloudError, match="does not answer"):
        _ = Instance(f"127.0.0.1:{free_port()}").id


def test_secrets_travel_from_a_folder_to_the_hosts_of_their_role(
    account: Callable[[str], Any], around: Surroundings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "common/consul.d/shoal.d/gossip.json": '{"encrypt": "x"}\n',
        "worker/shoal/ticket-keys.json": "é" * 3000,
        "gateway/shoal/ticket.key": "private",
    }
    for name, text in files.items():
        file = tmp_path / "secrets" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert main(["put", str(tmp_path / "secrets"), "/shoal/test"]) == 0
    assert capsys.readouterr().out.split() == sorted(f"/shoal/test/{name}" for name in files)
    described = account("ssm").describe_parameters()["Parameters"]
    assert {one["Name"].removeprefix("/shoal/test/"): (one["Type"], one["Tier"]) for one in described} == {
        "common/consul.d/shoal.d/gossip.json": ("SecureString", "Standard"),
        "worker/shoal/ticket-keys.json": ("SecureString", "Advanced"),
        "gateway/shoal/ticket.key": ("SecureString", "Standard"),
    }

    etc = tmp_path / "etc"
    (etc / "shoal").mkdir(parents=True)
    (etc / "shoal" / "instance.json").write_text(instance_document("worker", models="lite0,fake"))
    assert main(["boot", "--etc", str(etc), "--metadata", around.address]) == 0
    assert capsys.readouterr().out.split() == ["consul", "shoal-redis", "shoal-worker"]
    assert (etc / "shoal" / "ticket-keys.json").read_text() == "é" * 3000
    assert (etc / "shoal" / "ticket-keys.json").stat().st_mode & 0o777 == 0o640
    assert (etc / "consul.d" / "shoal.d" / "gossip.json").exists()
    assert not (etc / "shoal" / "ticket.key").exists(), "that is the gateways'"

    aws.Parameters(REGION).put("/shoal/test/worker/shoal/ticket-keys.json", "new")
    assert main(["fetch", "--etc", str(etc)]) == 0
    assert capsys.readouterr().out.split() == ["shoal/ticket-keys.json"], "and no other has changed"
    assert (etc / "shoal" / "ticket-keys.json").read_text() == "new"


def test_a_parameter_never_becomes_a_file_elsewhere(account: Callable[[str], Any], tmp_path: Path) -> None:
    class Hostile(aws.Parameters):
        def below(self, path: str) -> dict[str, str]:
            return {"../passwd": "root"}

    described = boot.Described("test", "worker", REGION, "/shoal/test", {})
    with pytest.raises(CloudError, match="no name of a file"):
        boot.fetch(described, Hostile(REGION), tmp_path / "etc")
    assert not (tmp_path / "passwd").exists()


OWN = {"NAME": "i-1", "ZONE": "eu-test-1a", "HOST": "10.0.0.7", "INTERNAL_HOST": "10.0.0.7"}
INTERNAL = {"CERTIFICATE": "/etc/shoal/tls/internal.pem", "CERTIFICATE_KEY": "/etc/shoal/tls/internal.key"}


@pytest.mark.parametrize(
    ("role", "settings", "agent", "services"),
    [
        ("consul", {"consul_servers": "3"}, {"server": True, "bootstrap_expect": 3}, {}),
        (
            "worker",
            {"models": ""},
            {"server": False},
            {"worker": {**OWN, "PUBLIC": "false", "PUBLIC_URL": "", **INTERNAL, "MODELS": ""}},
        ),
        (
            "gateway",
            {"network": "10.80.0.0/16", "domain": "shoal.example.org"},
            {"server": False},
            {"gateway": {**OWN, "TRUSTED_PROXIES": "10.80.0.0/16"}, "nginx": {"SERVER_NAME": "shoal.example.org"}},
        ),
    ],
)
def test_what_is_particular_to_a_host(
    role: str,
    settings: dict[str, str],
    agent: dict[str, Any],
    services: dict[str, dict[str, str]],
    around: Surroundings,
    tmp_path: Path,
) -> None:
    boot.describe(boot.Described("test", role, REGION, "/shoal/test", settings), Instance(around.address), tmp_path)
    assert json.loads((tmp_path / "consul.d" / "shoal.d" / "zz-instance.json").read_text()) == {
        "node_name": f"{role}-i-1",
        "bind_addr": "10.0.0.7",
        "advertise_addr": "10.0.0.7",
        "retry_join": [f"provider=aws region={REGION} tag_key=Name tag_value=test-consul"],
        **agent,
    }
    written = {path.name.partition(".")[0]: path.read_text() for path in tmp_path.glob("shoal/*.instance.env")}
    assert written == {
        service: "".join(f'SHOAL_{service.upper()}_{name}="{value}"\n' for name, value in variables.items())
        for service, variables in services.items()
    }


def test_the_agent_reads_what_the_first_boot_writes(around: Surroundings, tmp_path: Path) -> None:
    """And not the folder above, where packages of Consul leave settings of their own."""
    unit = (ROOT / "infra/ansible/roles/consul/templates/consul.service.j2").read_text(encoding="utf-8")
    assert re.findall(r"-config-(?:file|dir)=(\S+)", unit) == ["/etc/consul.d/shoal.json", f"/etc/{boot.CONSUL}"]
    secrets.make(tmp_path / "secrets", "shoal.example.org", None)
    told = {"consul_servers": "3", "models": "", "network": "10.80.0.0/16", "domain": "shoal.example.org"}
    for role in boot.UNITS:
        etc = tmp_path / role
        for part in ("common", role):
            shutil.copytree(tmp_path / "secrets" / part, etc, dirs_exist_ok=True)
        boot.describe(boot.Described("test", role, REGION, "/shoal/test", told), Instance(around.address), etc)
        read = {path.name for path in (etc / boot.CONSUL).iterdir()}
        assert read == {"gossip.json", "tokens.json", "zz-instance.json"}
        assert [path.name for path in (etc / "consul.d").iterdir() if path.suffix in {".json", ".hcl"}] == []


def test_every_unit_of_a_host_is_in_the_image() -> None:
    """Each is one of ours, or one that a role of the playbooks writes."""
    image = yaml.safe_load((PACKER.parent / "image.yml").read_text(encoding="utf-8"))[-1]["vars"]
    units = {unit if "." in unit else f"{unit}.service" for names in boot.UNITS.values() for unit in names}
    assert units <= {*image["image_own_units"], *(f"{unit}.service" for unit in image["image_units"])}
    assert {*image["image_own_units"], *image["image_programs"]} <= {path.name for path in PACKER.iterdir()}


def test_nginx_starts_when_its_configuration_is_there() -> None:
    """Its unit's condition is asked once, before shoal-nginx has written the file; and a host that leaves stops it."""
    role = yaml.safe_load((ROOT / "infra/ansible/roles/nginx/vars/main.yml").read_text(encoding="utf-8"))
    path = (PACKER / "nginx.path").read_text(encoding="utf-8")
    assert f"PathExists={role['nginx_file']}\nUnit=nginx.service\n" in path
    assert "nginx.path" in boot.UNITS["gateway"]
    assert "nginx" not in boot.UNITS["gateway"]
    leave = (PACKER / "leave-gateway").read_text(encoding="utf-8")
    assert 0 < leave.index("stop nginx.path\n") < leave.index("stop nginx.service")


@pytest.mark.parametrize(
    ("active", "useful"), [("", False), ("shoal-gateway", False), ("nginx", False), ("shoal-gateway nginx", True)]
)
def test_a_gateways_host_is_useful_with_both(active: str, useful: bool, tmp_path: Path) -> None:
    """systemctl says yes when one of the units that it is asked for is active."""
    (tmp_path / "systemctl").write_text(
        '#!/bin/bash\nfor unit in "${@:3}"; do [[ " $ACTIVE " = *" ${unit%.service} "* ]] && exit 0; done; exit 3\n'
    )
    (tmp_path / "systemctl").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ACTIVE": active}
    assert (subprocess.run([PACKER / "ready-gateway"], env=environ).returncode == 0) is useful


FILES = {
    "gateway": {"DISCOVERY": "consul://127.0.0.1:8500", "TICKET_KEY": "k", "API_KEYS": "k"},
    "worker": {"DISCOVERY": "consul://127.0.0.1:8500", "TICKET_KEYS": "k"},
}


@pytest.mark.parametrize("role", FILES)
def test_the_services_understand_what_is_particular_to_their_host(
    role: str, around: Surroundings, tmp_path: Path
) -> None:
    told = {"models": "lite0,fake", "network": "10.80.0.0/16", "domain": "shoal.example.org"}
    boot.describe(boot.Described("test", role, REGION, "/shoal/test", told), Instance(around.address), tmp_path)
    lines = (tmp_path / "shoal" / f"{role}.instance.env").read_text().replace('"', "").splitlines()
    secrets.make(tmp_path / "secrets", "shoal.example.org", None)
    environ = {f"SHOAL_{role.upper()}_{name}": value for name, value in FILES[role].items()}
    environ |= dict(line.replace("/etc", str(tmp_path / "secrets" / role)).split("=", 1) for line in lines)
    ran = subprocess.run(
        [sys.executable, "-m", "shoal.cli", "settings", role], env={**os.environ, **environ}, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr
    assert b'name = "i-1"' in ran.stdout
    assert b'internal_host = "10.0.0.7"' in ran.stdout


def test_the_secrets_of_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "secrets"
    assert main(["secrets", str(folder), "shoal.example.org"]) == 0
    operator = capsys.readouterr().out.strip()
    names = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    of = {role: {name for name in names if name.startswith(role)} for role in ("common", *boot.UNITS)}
    private = {name for name, text in names.items() if "PRIVATE KEY" in text}
    assert {name for name in of["worker"] if name in private} == {
        "worker/shoal/tls/internal.key",
        "worker/consul.d/tls/agent.key",
    }
    assert not of["common"] & private, "no key is common to all"
    assert [name for name, text in names.items() if operator in text] == [], "the first API key is nowhere"
    assert "gateway/shoal/ticket.key" in names
    assert "worker/shoal/ticket-keys.json" in names
    agents = {role: json.loads(names[f"{role}/consul.d/shoal.d/tokens.json"])["acl"]["tokens"] for role in boot.UNITS}
    management = agents["consul"]["initial_management"]
    assert len({known["agent"] for known in agents.values()}) == len(agents), "each role's agents have their own"
    assert {name.partition("/")[0] for name, text in names.items() if management in text} == {"consul"}
    assert all(len(text.encode()) <= aws.ADVANCED_BYTES for text in names.values()), "none costs extra"
    tokens = {name for name in names if name.endswith((".env", "scaler.key", ".json")) or "/tokens/" in name}
    guarded = private | tokens - {"worker/shoal/ticket-keys.json"}
    assert {(folder / name).stat().st_mode & 0o077 for name in guarded} == {0}
    assert folder.stat().st_mode & 0o077 == 0
    assert main(["secrets", str(folder), "shoal.example.org"]) == 1
    assert "made once" in capsys.readouterr().err


def test_secrets_with_a_certificate_of_the_public_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pem", "key"):
        (tmp_path / name).write_text(f"my {name}")
    given = ["--certificate", str(tmp_path / "pem")]
    assert main(["secrets", str(tmp_path / "secrets"), "shoal.example.org", *given]) == 1
    assert "belong together" in capsys.readouterr().err
    given += ["--certificate-key", str(tmp_path / "key")]
    assert main(["secrets", str(tmp_path / "secrets"), "shoal.example.org", *given]) == 0
    tls = tmp_path / "secrets" / "gateway" / "shoal" / "tls"
    assert {name: (tls / f"public.{name}").read_text() for name in ("pem", "key")} == {"pem": "my pem", "key": "my key"}


def test_the_key_of_the_authority_is_never_put_anywhere(
    account: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["secrets", str(tmp_path / "secrets"), "shoal.example.org"]) == 0
    key = (tmp_path / "secrets" / "ca" / "ca.key").read_text()
    assert main(["put", str(tmp_path / "secrets"), "/shoal/test"]) == 0
    put = aws.Parameters(REGION).below("/shoal/test")
    assert len(put) > 20
    assert key not in put.values()
    assert main(["put", str(tmp_path / "nothing"), "/shoal/test"]) == 1


def test_consul_gets_policies_and_tokens_and_keeps_them(tmp_path: Path) -> None:
    """With the policies of the playbooks, on a real Consul that refuses by default; twice."""
    binary = find_consul()
    need(binary, "consul is not installed")
    need(shutil.which("jq") and shutil.which("curl"), "jq or curl is not installed")
    assert binary is not None
    secrets.make(tmp_path / "secrets", "shoal.example.org", None)
    folder = tmp_path / "secrets" / "consul" / "shoal"
    (folder / "policies").mkdir()
    role = yaml.safe_load((ROOT / "infra/ansible/roles/consul/defaults/main.yml").read_text(encoding="utf-8"))
    agents = {path.stem: path.read_text(encoding="utf-8") for path in PACKER.glob("agent-*.hcl")}
    policies = {**role["consul_policies"], **agents}
    for name, rules in policies.items():
        (folder / "policies" / f"{name}.hcl").write_text(rules, encoding="utf-8")
    assert set(policies) == set(secrets.TOKENS)
    tokens = {path.name: path.read_text().strip() for path in (folder / "tokens").iterdir()}
    with ConsulServer(binary, tmp_path / "consul", management=tokens["management"]) as server:
        url = f"http://127.0.0.1:{server.port}"

        def asked(token: str, path: str, body: bytes | None = None) -> int:
            request = urllib.request.Request(f"{url}/v1/{path}", data=body, headers={"X-Consul-Token": token})
            request.method = "GET" if body is None else "PUT"
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert asked(tokens["worker"], "acl/token/self") == 403
        for _ in range(2):
            subprocess.run([PACKER / "consul-access", folder, url], check=True, timeout=60)
        assert {name: asked(token, "acl/token/self") for name, token in tokens.items()} == dict.fromkeys(tokens, 200)
        worker = b'{"Name": "shoal-worker", "ID": "w"}'
        assert asked(tokens["worker"], "agent/service/register", worker) == 200
        assert asked(tokens["nginx"], "agent/service/register", worker) == 403
        assert asked(tokens["publisher"], "kv/shoal/models/m", b"x") == 200
        # With another address each time: whoever repeats what Consul knows of a node needs no right to write it.
        nodes = {other: f'{{"Node": "%s-i-1", "Address": "127.0.1.{n}"}}' for n, other in enumerate(secrets.AGENTS)}
        for name in secrets.AGENTS:
            answers = {
                other: asked(tokens[f"agent-{other}"], "catalog/register", (node % name).encode())
                for other, node in nodes.items()
            }
            assert answers == {other: 200 if other == name else 403 for other in nodes}, (
                "an agent writes its role's nodes"
            )
        assert asked(tokens["worker"], "kv/shoal/models/m", b"y") == 403


@pytest.mark.parametrize("text", ["", "[]", "{}", instance_document("frontend")])
def test_user_data_that_says_nothing_useful(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shoal").mkdir()
    (tmp_path / "shoal" / "instance.json").write_text(text)
    assert main(["boot", "--etc", str(tmp_path)]) == 1
    assert "instance.json" in capsys.readouterr().err


def test_shoal_cloud_is_a_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "shoal.cli", "cloud", "--help"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "lifecycle" in ran.stdout


def group(account: Callable[[str], Any], name: str, least: int, most: int) -> Callable[[], int]:
    """Make an auto-scaling group; what it returns says how many instances it should have."""
    autoscaling = account("autoscaling")
    autoscaling.create_launch_configuration(
        LaunchConfigurationName=name, ImageId="ami-12c6146b", InstanceType="t3.micro"
    )
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName=name,
        MinSize=least,
        MaxSize=most,
        AvailabilityZones=[f"{REGION}a"],
    )

    def desired() -> int:
        found = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        return int(found[0]["DesiredCapacity"])

    return desired


class Suggests(scaling.Gateway):
    """A gateway that suggests a number, or does not answer."""

    def __init__(self, number: int | None) -> None:
        super().__init__("http://127.0.0.1:1")
        object.__setattr__(self, "number", number)

    def desired(self) -> int:
        number: int | None = self.__dict__["number"]
        return number if number is not None else super().desired()


def test_the_group_gets_what_the_gateway_that_wants_most_wants(account: Callable[[str], Any]) -> None:
    desired = group(account, "test-worker", 1, 4)
    workers, wishes = aws.Group("test-worker", REGION), aws.Wishes("test-worker", REGION)
    assert scaling.adjust(Suggests(None), wishes, workers) is None, "nobody says anything: it stays"
    assert desired() == 1
    assert scaling.adjust(Suggests(3), wishes, workers) == 3
    assert desired() == 3
    assert scaling.adjust(Suggests(2), wishes, workers) is None, "the other gateway said 3 a moment ago"
    assert scaling.adjust(Suggests(9), wishes, workers) == 4, "no more than the group may have"
    assert scaling.adjust(Suggests(None), wishes, workers) is None
    assert desired() == 4
    with pytest.raises(CloudError, match="no group other"):
        aws.Group("other", REGION).capacity()


def test_of_several_models_and_gateways_each_group_has_wishes_of_its_own(account: Callable[[str], Any]) -> None:
    aws.Wishes("a", REGION).say(7)
    assert (aws.Wishes("a", REGION).greatest(3), aws.Wishes("b", REGION).greatest(3)) == (7, None)


def test_an_unreachable_cloud_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(CloudError, match="group test-worker: Could not connect"):
        aws.Group("test-worker", REGION).complete("useful", "i-1")


@pytest.mark.cluster
def test_workers_follow_the_scale_signal_of_a_real_gateway(account: Callable[[str], Any], tmp_path: Path) -> None:
    desired = group(account, "test-worker", 3, 8)
    account("autoscaling").set_desired_capacity(AutoScalingGroupName="test-worker", DesiredCapacity=8)
    (tmp_path / "shoal").mkdir()
    (tmp_path / "shoal" / "instance.json").write_text(
        instance_document("gateway", scaled_group="test-worker", target="0.5")
    )
    (tmp_path / "key").write_text("")
    with up("--workers", "1", "--model", "fake") as cluster:
        (tmp_path / "key").write_text(cluster.api_key + "\n")
        command = [*CLOUD, "scale", "--gateway", cluster.gateway, "--api-key-file", str(tmp_path / "key")]
        with subprocess.Popen([*command, "--etc", str(tmp_path), "--interval", "0.2"]) as scaler:
            try:
                eventually(lambda: desired() == 3, within=60, what="an idle cluster shrinks to its least")
            finally:
                scaler.send_signal(signal.SIGTERM)
    with pytest.raises(CloudError, match="no scale signal"):
        scaling.Gateway(cluster.gateway).desired()
