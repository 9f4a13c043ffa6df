"""Apply the Terraform configurations to a mock of AWS, use what came into being, destroy it, and check policies.

``make cloud`` runs it. AWS's own provider, of 2021, speaks to moto: so resources, their order, references and values
are what a real provider makes of them, and it refuses values that a schema cannot. What moto does not do is AWS: no
instance boots, no packet is filtered, no hook waits, no quota exists.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from cloud import aws, boot
from tests.consul_server import free_port
from tests.terraforming import TERRAFORM, Terraform

EXAMPLE = "examples/minimal"
PROVIDER = "3.39.0"
IMAGE = "ami-12c6146b"  # one that moto has
SECONDS = 540.0
SERVICES = ("autoscaling", "cloudwatch", "cloudwatchlogs", "ec2", "elb", "iam", "route53", "sts")
ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}
VARIABLES = (f"-var=image_id={IMAGE}", "-var=domain=shoal.example.org")


def override(url: str) -> str:
    """What makes an example's provider the older one, and the mock its cloud."""
    endpoints = "".join(f'    {service} = "{url}"\n' for service in SERVICES)
    return (
        "terraform {\n  required_providers {\n    aws = {\n"
        f'      source  = "hashicorp/aws"\n      version = "{PROVIDER}"\n    }}\n  }}\n}}\n'
        'provider "aws" {\n  skip_credentials_validation = true\n  skip_metadata_api_check = true\n'
        f"  endpoints {{\n{endpoints}  }}\n"
        "  default_tags {\n    tags = {}\n  }\n}\n"  # moto's elastic addresses take none by that provider
    )


@contextmanager
def moto(log: Path) -> Iterator[str]:
    """The URL of a mock of AWS that is empty."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environ = {**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, env=environ) as process:
        try:
            ends = time.monotonic() + 60
            while not _answers(f"{url}/moto-api/"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < ends, "moto does not answer"
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def applied(terraform: Terraform) -> Counter[str]:
    """Apply, and count the resources of the state by kind."""
    terraform.done(EXAMPLE, "apply", "-auto-approve", "-no-color", *VARIABLES, seconds=SECONDS)
    state = json.loads(terraform.done(EXAMPLE, "show", "-json"))
    _no_secret(json.dumps(state))
    return Counter(resource["type"] for resource in _resources(state["values"]["root_module"]) if _is_managed(resource))


def _is_managed(resource: dict[str, Any]) -> bool:
    return bool(resource["mode"] == "managed")


def _resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from module.get("resources", ())
    for child in module.get("child_modules", ()):
        yield from _resources(child)


def _no_secret(state: str) -> None:
    found = re.findall(r"(?i)BEGIN [A-Z ]*PRIVATE KEY|whsec_|sk_[a-z]+_", state)
    assert not found, f"the state has a secret: {found}"


def used(terraform: Terraform, folder: Path) -> None:
    """Have hosts use what was made: the user data, the parameters and the group are those that Terraform named."""
    output = json.loads(terraform.done(EXAMPLE, "output", "-json"))["cluster"]["value"]
    assert output["groups"] == {role: f"trial-{role}" for role in boot.UNITS}
    ec2 = boto3.client("ec2")
    for role in boot.UNITS:
        name = output["groups"][role]
        (version,) = ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
        data = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
        etc = folder / role / "etc"
        (etc / "shoal").mkdir(parents=True)
        script = data.replace("/etc/shoal", str(etc / "shoal")).replace("exec systemctl", "exec true")
        subprocess.run(["sh", "-c", script], check=True)
        described = boot.Described.read(etc / "shoal" / "instance.json")
        assert (described.group, described.parameters) == (name, output["parameters"])
        parameters = aws.Parameters(described.region)
        parameters.put(f"{output['parameters']}/{role}/shoal/secret", role)
        assert boot.fetch(described, parameters, etc) == ["shoal/secret"]
        instances = ec2.describe_instances(Filters=[{"Name": "tag:Name", "Values": [name]}])["Reservations"]
        assert len(instances) == 1, f"Consul would find {len(instances)} machines by the name {name}"
    group = aws.Group(described.settings["scaled_group"], described.region)
    assert group.capacity() == aws.Capacity(1, 1, 1)


def destroyed(terraform: Terraform) -> int:
    """Destroy, and return how many things of ours the mock still has."""
    terraform.done(EXAMPLE, "destroy", "-auto-approve", "-no-color", *VARIABLES, seconds=SECONDS)
    left = boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    left += boto3.client("elbv2").describe_load_balancers()["LoadBalancers"]
    left += [role for role in boto3.client("iam").list_roles()["Roles"] if role["RoleName"].startswith("trial")]
    left += [vpc for vpc in boto3.client("ec2").describe_vpcs()["Vpcs"] if not vpc["IsDefault"]]
    return len(left)


def policies(checkov: Path) -> tuple[int, int, list[str]]:
    """How many policy checks hold, how many do not, and the exceptions: each check with its reason, once."""
    command = [
        str(checkov),
        "--directory",
        str(TERRAFORM),
        "--framework",
        "terraform",
        "--skip-download",
        "--output",
        "json",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    report = json.loads(ran.stdout)
    results, summary = report["results"], report["summary"]
    for failed in results["failed_checks"]:
        print(f"  {failed['check_id']} {failed['resource']}: {failed['check_name']}")
    reasons = {(one["check_id"], one["check_result"]["suppress_comment"]) for one in results["skipped_checks"]}
    return summary["passed"], summary["failed"], [f"{check}: {reason}" for check, reason in sorted(reasons)]


def main(tools: Path) -> int:
    if not shutil.which("terraform"):
        sys.exit("terraform is not installed: https://developer.hashicorp.com/terraform/install")
    with tempfile.TemporaryDirectory(prefix="cloud-") as name, moto(Path(name) / "moto.log") as url:
        folder = Path(name)
        os.environ.update({**ACCOUNT, "AWS_ENDPOINT_URL": url})
        (folder / "providers").symlink_to(tools / "providers")
        terraform = Terraform.on(folder, ACCOUNT)
        (terraform.copy / EXAMPLE / "mock_override.tf").write_text(override(url), encoding="utf-8")
        terraform.done(EXAMPLE, "init", "-no-color")
        started = time.monotonic()
        kinds = applied(terraform)
        print(f"applied {kinds.total()} resources of {len(kinds)} kinds in {time.monotonic() - started:.0f} s:")
        print("  " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
        used(terraform, folder)
        print("user data, parameters, tags and groups are what a host expects")
        started = time.monotonic()
        left = destroyed(terraform)
        print(f"destroyed in {time.monotonic() - started:.0f} s; {left} are left")
    passed, failed, exceptions = policies(tools / "checkov" / "bin" / "checkov")
    print(f"policies: {passed} checks hold, {failed} do not; {len(exceptions)} exceptions:")
    print("".join(f"  {exception}\n" for exception in exceptions), end="")
    return 1 if left or failed else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).absolute()))
