"""``python -m rehearsal run``: a lab from nothing, every scenario on it, a report, and nothing left."""

from __future__ import annotations

import argparse
import configparser
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rehearsal import report
from rehearsal.control import NoLab, OrderFailed, enter_network
from rehearsal.fleet import LabFailed, down, missing, up
from rehearsal.inventory import LAYOUT
from rehearsal.place import Place
from rehearsal.playbooks import Ansible, PlaybookFailed
from rehearsal.report import Step
from rehearsal.scenarios import SCENARIOS, Stage, logs_of
from shoal.errors import ShoalError

ROOT = Path(__file__).parent.parent
MODEL = "fake"
DOMAIN = "shoal.test"
PARTS = {"worker": ["worker", "onnx"]}
_FAILURES = (
    *(PlaybookFailed, OrderFailed, NoLab, ShoalError),
    *(OSError, TimeoutError, subprocess.SubprocessError, LookupError, ValueError),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ansible", type=Path, metavar="FOLDER", help="with ansible-playbook; by default it is on PATH"
    )
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep what was found there (JSON)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the results into this page's section")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs there")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")


def run(options: argparse.Namespace, place: Place) -> bool:
    """Whether everything held. Raises ``LabFailed`` or ``PlaybookFailed`` when it does not come to that."""
    if reason := missing():
        raise LabFailed(reason)
    programs = options.ansible or _programs()
    steps: list[Step] = []
    version = _source_version()
    versions = version, f"{version}.post1"
    _build(programs, versions, place)
    began = time.monotonic()
    up(place, LAYOUT)
    try:
        steps.append(_booted(time.monotonic() - began))
        enter_network(place)
        stage = Stage(place, LAYOUT, Ansible(programs, place), _variables(place), versions)
        _rehearse(stage, options.only or list(SCENARIOS), steps)
        consul = _consul_version(stage)
    finally:
        try:
            if options.logs:
                logs_of(place, options.logs)
        finally:
            if not options.keep:
                down(place)
    _write(options, steps, _facts(programs, consul))
    return all(step.holds for step in steps)


def _rehearse(stage: Stage, names: list[str], steps: list[Step]) -> None:
    for name in names:
        what, scenario = SCENARIOS[name]
        step, began = Step(name, what), time.monotonic()
        steps.append(step)
        try:
            scenario(stage, step)
        except _FAILURES as error:
            step.check("it comes to its end", f"{type(error).__name__}: {str(error)[:200]}", False)
            sys.stderr.write(f"rehearsal: {name}: {error}\n")
        step.seconds = time.monotonic() - began
        _tell(step)
        if name == "site" and not step.holds:
            return  # on no cluster there is nothing to rehearse


def _booted(seconds: float) -> Step:
    step = Step("up", "bare hosts boot", seconds)
    step.check("sshd answers on every host", f"{len(LAYOUT)} hosts, {seconds:.1f} s", True)
    _tell(step)
    return step


def _tell(step: Step) -> None:
    sys.stdout.write(f"{step.name}: {'holds' if step.holds else 'DOES NOT HOLD'}  {step.seconds:.0f} s\n")
    for claim, found, holds in step.checks:
        sys.stdout.write(f"    {'ok ' if holds else 'NOT'} {claim}: {found}\n")
    sys.stdout.flush()


def _build(programs: Path, versions: tuple[str, str], place: Place) -> None:
    """The releases, outside of the lab, which reaches no package index."""
    shutil.rmtree(_wheelhouse(place), ignore_errors=True)  # a version is built once, and this source is another
    _wheelhouse(place).mkdir(mode=0o700, parents=True)
    for version in versions:
        wanted = (
            f"shoal_version={version}",
            f"shoal_wheelhouse={_wheelhouse(place)}",
            json.dumps({"shoal_parts": PARTS}),
        )
        command = [str(programs / "ansible-playbook"), str(ROOT / "infra/ansible/wheelhouse.yml")]
        environ = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "infra/ansible/ansible.cfg")}
        environ.pop("PYTHONPATH", None)
        built = subprocess.run(
            [*command, *(part for each in wanted for part in ("-e", each))],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            raise PlaybookFailed(f"wheelhouse.yml ended with {built.returncode}:\n{built.stdout[-3000:]}")


def _wheelhouse(place: Place) -> Path:
    return place.folder / f"wheelhouse-{place.name}"


def _variables(place: Place) -> dict[str, object]:
    return {"shoal_wheelhouse": str(_wheelhouse(place)), "shoal_domain": DOMAIN, "shoal_models": [MODEL]}


def _programs() -> Path:
    for folder in os.environ["PATH"].split(os.pathsep):
        if (Path(folder) / "ansible-playbook").exists():
            return Path(folder)
    raise LabFailed("there is no ansible-playbook on PATH: see --ansible")


def _source_version() -> str:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return settings["metadata"]["version"]


def _consul_version(stage: Stage) -> str:
    """What a host says that has it."""
    try:
        said = stage.ansible.on(stage.hosts("consul_servers")[0], "consul version")
    except _FAILURES as error:
        sys.stderr.write(f"rehearsal: consul version: {error}\n")
        return "unknown"
    found = re.search(r"Consul v([\w.+~-]+)", said)
    return found[1] if found else "unknown"


def _write(options: argparse.Namespace, steps: list[Step], facts: dict[str, Any]) -> None:
    if options.results:
        report.save(options.results, facts, steps)
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(report.insert(page, report.section(facts, steps)), encoding="utf-8")


def _facts(programs: Path, consul: str) -> dict[str, Any]:
    asked = subprocess.run([programs / "ansible-playbook", "--version"], capture_output=True, text=True, check=True)
    cores = len(os.sched_getaffinity(0))
    groups = (f"{host} ({', '.join(groups)})" for host, groups in LAYOUT.items())
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{cores} cores, {platform.system()}",
        "ansible": asked.stdout.split("]")[0].split()[-1],
        "consul": consul,
        "model": MODEL,
        "hosts": f"The hosts: {'; '.join(groups)}.",
    }
