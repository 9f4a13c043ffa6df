"""The container files agree with the code: stages, settings, secrets, health checks. It starts no container."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.cli import parser
from shoal.doctor.checks import CHECKS
from shoal.settings import GatewaySettings, WorkerSettings
from tests.needs import need
from tests.pages import ROOT

FOLDER = ROOT / "infra" / "containers"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
SETTINGS: dict[str, type[GatewaySettings] | type[WorkerSettings]] = {
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
}


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def ours() -> list[tuple[str, dict[str, Any]]]:
    """The services that run images of ours."""
    return [(name, service) for name, service in document("compose.yaml")["services"].items() if "build" in service]


def stage(name: str) -> str:
    """The lines of one stage of the Dockerfile."""
    return DOCKERFILE.partition(f" AS {name}\n")[2].partition("\nFROM ")[0]


def test_there_are_two_of_each() -> None:
    targets = [service["build"]["target"] for _, service in ours()]
    assert sorted(targets) == ["gateway", "gateway", "worker", "worker"]


@pytest.mark.parametrize(("name", "service"), ours(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_service_of_ours(name: str, service: dict[str, Any]) -> None:
    role = service["build"]["target"]
    assert f" AS {role}\n" in DOCKERFILE
    settings = SETTINGS[role]
    image = dict(re.findall(r"\b(SHOAL_[A-Z_]+)=(\S+)", stage(role)))
    known = {f"SHOAL_{role.upper()}_{field.upper()}" for field in settings.model_fields}
    assert set(service["environment"]) | set(image) <= known
    values = {**image, **service["environment"]}
    given = {key.removeprefix(f"SHOAL_{role.upper()}_").lower(): value for key, value in values.items()}
    assert settings(**given).name == name == service["hostname"]  # as they are, they are valid
    secrets = {Path(value).name for value in values.values() if str(value).startswith("/run/secrets/")}
    assert secrets == set(service["secrets"]) <= set(document("compose.yaml")["secrets"])
    drains = settings.model_fields["grace"].default + settings.model_fields["drain_timeout"].default
    assert int(service["stop_grace_period"].rstrip("s")) > drains
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_an_image(role: str) -> None:
    text = stage(role)
    assert "\nUSER shoal\n" in text
    health = re.search(r'HEALTHCHECK .*\\\n +CMD \["shoal", (.*)\]', text)
    assert health is not None
    asked = parser().parse_args([word.strip('" ') for word in health[1].split(",")])
    assert (asked.role, asked.strict) == (role, True)
    assert set(asked.only) <= {check.code for check in CHECKS if role in check.roles}


def test_the_file_for_gpus_changes_workers() -> None:
    workers = {name for name, service in ours() if service["build"]["target"] == "worker"}
    assert set(document("gpu.yaml")["services"]) == workers
    assert "gpu) pip install" in DOCKERFILE


def test_no_image_is_of_an_unknown_age() -> None:
    images = [
        service["image"] for name, service in document("compose.yaml")["services"].items() if "build" not in service
    ]
    bases = re.findall(r"^ARG BASE=(\S+)", DOCKERFILE, re.MULTILINE)
    assert [image for image in [*images, *bases] if not re.fullmatch(r"docker\.io/.+:\d+\.\d+\.\d+.*", image)] == []


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin")
    need(program, "no nginx")
    text = re.sub(r"gateway\d:", "127.0.0.1:", (FOLDER / "nginx.conf").read_text(encoding="utf-8"))
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{text}}}\n")
    ran = subprocess.run(
        [str(program), "-e", "stderr", "-p", str(tmp_path), "-c", "nginx.conf", "-t"], capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
