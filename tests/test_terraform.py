"""The Terraform configurations are in form, fit AWS's current schema, and do what their own tests say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud import aws as interfaces
from cloud import boot, lifecycle
from tests.needs import need
from tests.terraforming import TERRAFORM, Terraform, aws, tools, used

PROVIDED = [
    *(f"modules/{name}" for name in ("network", "firewall", "entrance", "hosts", "cluster")),
    *(f"examples/{name}" for name in ("minimal", "production")),
]
BARE = ["modules/on_premises", "examples/on_premises"]

pytestmark = pytest.mark.timeout(300)

FAULTS = [
    ("a resource that is not", "modules/network/main.tf", 'resource "aws_vpc" "this"', 'resource "aws_vcp" "this"'),
    ("an argument that is not", "modules/hosts/main.tf", "max_size  ", "maximum_size  "),
    ("a block that is not", "modules/hosts/main.tf", "metadata_options {", "metadata {"),
    ("a type that does not fit", "modules/entrance/main.tf", "interval            = 10", 'interval = "often"'),
    (
        "an argument that is missing",
        "modules/firewall/main.tf",
        '  protocol          = "tcp"\n  from_port         = 443\n',
        "",
    ),
    ("an attribute that is not", "modules/entrance/outputs.tf", "aws_lb.this.dns_name", "aws_lb.this.dns"),
    ("a variable that the module does not have", "modules/cluster/main.tf", "  spot_percent ", "  spot "),
]


def cases(where: str) -> int:
    """How many runs the tests of a configuration have."""
    files = (TERRAFORM / where / "tests").glob("*.tftest.hcl")
    return sum(len(re.findall(r"^run ", file.read_text(encoding="utf-8"), re.M)) for file in files)


def test_every_configuration_is_tested_here() -> None:
    folders = {str(path.parent.relative_to(TERRAFORM)) for path in TERRAFORM.rglob("main.tf")}
    assert folders == {*PROVIDED, *BARE}
    assert all(cases(where) for where in folders)


def test_the_files_are_in_form() -> None:
    need(shutil.which("terraform"), "terraform is not installed")
    ran = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", "-recursive", TERRAFORM], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def test_terraform_and_the_hosts_have_the_same_words() -> None:
    """What the modules write and what ``shoal cloud`` reads are in two languages."""
    hosts = (TERRAFORM / "modules" / "hosts" / "main.tf").read_text(encoding="utf-8")
    assert set(re.findall(r'^    name +=  *"(\w+)"', hosts, re.M)) == {lifecycle.USEFUL, lifecycle.DRAINED}
    roles = (TERRAFORM / "modules" / "hosts" / "variables.tf").read_text(encoding="utf-8")
    assert f"contains({sorted(boot.UNITS)}".replace("'", '"') in roles
    cluster = "".join(path.read_text(encoding="utf-8") for path in (TERRAFORM / "modules" / "cluster").glob("*.tf"))
    assert f'namespace = "{interfaces.NAMESPACE}"' in re.sub(" +", " ", cluster)
    assert f'"{interfaces.METRIC}"' in cluster
    told = cluster.partition("settings = {")[2].partition("}")[0]
    code = "".join(path.read_text(encoding="utf-8") for path in Path(boot.__file__).parent.glob("*.py"))
    read = set(re.findall(r'\.settings\["(\w+)"\]', code))
    assert read <= {*re.findall(r"^ +(\w+) += ", told, re.M)}
    assert read, "the host reads something"


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terraform]:
    """Terraform with AWS's current schema, on a copy that is prepared."""
    need(shutil.which("terraform"), "terraform is not installed")
    found = tools()
    need(found, "tests/tools/terraform.sh has not been run")
    assert found is not None
    folder = tmp_path_factory.mktemp("aws")
    with aws(found, folder, used(TERRAFORM)) as variables:
        copy = Terraform.on(folder, variables)
        for where in (*PROVIDED, *BARE):
            copy.done(where, "init", "-backend=false", "-no-color")
        yield copy


@pytest.mark.parametrize("where", [*PROVIDED, *BARE])
def test_it_fits_the_schema(terraform: Terraform, where: str) -> None:
    assert "Success! The configuration is valid." in terraform.done(where, "validate", "-no-color")


@pytest.mark.parametrize("where", [*PROVIDED, *BARE])
def test_it_does_what_its_tests_say(terraform: Terraform, where: str) -> None:
    assert f"Success! {cases(where)} passed, 0 failed." in terraform.done(where, "test", "-no-color")


@pytest.mark.parametrize(("fault", "file", "old", "new"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_planted_fault_is_found(
    terraform: Terraform, tmp_path: Path, fault: str, file: str, old: str, new: str
) -> None:
    other = Terraform(tmp_path / "terraform", terraform.variables)
    shutil.copytree(terraform.copy, other.copy, symlinks=True)
    path = other.copy / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")
    ran = other.run(str(Path(file).parent), "validate", "-no-color")
    assert ran.returncode == 1, f"{fault} is taken:\n{ran.stdout}"
    assert "Error: " in ran.stdout


def test_no_role_has_a_managed_policy() -> None:
    """AWS's own for Session Manager may read every parameter; what our roles may is held by modules/hosts/tests."""
    attachments = ("aws_iam_role_policy_attachment", "aws_iam_policy_attachment")
    assert [kind for kind in used(TERRAFORM) if kind.removeprefix("data.").startswith(attachments)] == []
    text = "".join(path.read_text(encoding="utf-8") for path in TERRAFORM.rglob("*.tf"))
    assert re.findall(r"managed_policy_arns|arn:aws:iam::aws:policy", text) == []


def test_nothing_that_holds_a_secret_is_in_the_state() -> None:
    """What the user data has is held by modules/hosts/tests."""
    holders = ("aws_ssm_parameter", "aws_secretsmanager", "random_password", "tls_private_key", "aws_key_pair")
    kinds = used(TERRAFORM)
    assert [kind for kind in kinds if kind.removeprefix("data.").startswith(holders)] == []
    text = "".join(path.read_text(encoding="utf-8") for path in TERRAFORM.rglob("*.tf"))
    assert re.findall(r"(?i)sensitive *= *true|BEGIN [A-Z ]*PRIVATE KEY|(?:A3T|AKIA)[A-Z0-9]{16}", text) == []
