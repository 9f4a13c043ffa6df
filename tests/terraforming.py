"""Terraform as tests use it: on a copy of ``infra/terraform``, with a provider that has AWS's current schema and no
cloud."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import aws_schema
from tests.consul_server import ROOT

TERRAFORM = ROOT / "infra" / "terraform"
SECONDS = 280.0
_USED = re.compile(r'^\s*(resource|data) "(aws_\w+)"', re.M)


def used(folder: Path) -> set[str]:
    """Every kind of resource that the configurations below a folder name; of data sources with ``data.`` before it."""
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.tf")]
    return {("data." if word == "data" else "") + name for text in texts for word, name in _USED.findall(text)}


def tools() -> Path | None:
    """Where tests/tools/terraform.sh has put its things, if it has."""
    folder = Path(os.environ.get("TERRAFORM_TOOLS", ROOT / ".tools" / "terraform"))
    return folder if (folder / "schema.tgz").exists() and (folder / "venv" / "complete").exists() else None


@contextmanager
def aws(tools: Path, folder: Path, kinds: set[str]) -> Iterator[dict[str, str]]:
    """Run the provider that has the schema of some kinds of resources; the variables with which Terraform finds it."""
    schema, socket = folder / "schema.json", folder / "aws.sock"
    schema.write_text(json.dumps(aws_schema.read(tools / "schema.tgz", kinds)), encoding="utf-8")
    with subprocess.Popen(
        [tools / "venv" / "bin" / "python", ROOT / "tests" / "schema_provider.py", schema, socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        where = {
            "Protocol": "grpc",
            "ProtocolVersion": 6,
            "Pid": process.pid,
            "Test": True,  # it outlives the command
            "Addr": {"Network": "unix", "String": str(socket)},
        }
        yield {"TF_REATTACH_PROVIDERS": json.dumps({"registry.terraform.io/hashicorp/aws": where})}
        process.stdin.close()


@dataclass(frozen=True)
class Terraform:
    """Terraform on a copy of our configurations, which downloads nothing."""

    copy: Path
    variables: Mapping[str, str]

    @staticmethod
    def on(folder: Path, variables: Mapping[str, str]) -> Terraform:
        copy, providers, settings = folder / "terraform", folder / "providers", folder / "terraformrc"
        shutil.copytree(TERRAFORM, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        providers.mkdir(exist_ok=True)
        settings.write_text(
            "disable_checkpoint = true\n"
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{providers}"\n  }}\n}}\n'
        )
        return Terraform(copy, {"TF_CLI_CONFIG_FILE": str(settings), "TF_IN_AUTOMATION": "1", **variables})

    def run(self, where: str, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Run one command in a folder of the copy; both streams are its output."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.copy / where,
            env={**kept, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )

    def done(self, where: str, *arguments: str, seconds: float = SECONDS) -> str:
        """The output of a command that must succeed."""
        ran = self.run(where, *arguments, seconds=seconds)
        assert ran.returncode == 0, f"terraform {' '.join(arguments)} in {where}:\n{ran.stdout}"
        return ran.stdout
