"""``shoal doctor``: the command. Exit code 0: well, 1: problems (with ``--strict`` warnings too), 2: asked wrongly."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import sys
from typing import TextIO

from shoal.doctor.checks import CHECKS, Report, make
from shoal.doctor.host import Host
from shoal.doctor.subject import Subject

_MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}


def run(options: argparse.Namespace) -> int:
    try:
        for path in options.env_file:
            os.environ.update(variables_in(path.read_text(encoding="utf-8")))
    except OSError as error:
        sys.stderr.write(f"shoal: {error}\n")
        return 2
    codes = [check.code for check in CHECKS]
    if strangers := [code for code in options.only if code not in codes]:
        sys.stderr.write(f"shoal: there is no check {', '.join(strangers)}; there are {', '.join(codes)}\n")
        return 2
    wanted = [check for check in CHECKS if check.code in (options.only or codes)]
    report = asyncio.run(make(subject_of(options), wanted))
    if options.json:
        sys.stdout.write(json.dumps(report.document(), indent=2) + "\n")
    else:
        show(report, sys.stdout)
    return int(report.outcome == "problem" or (options.strict and report.outcome == "warning"))


def subject_of(options: argparse.Namespace) -> Subject:
    """Whom to look at, with the settings that the service itself would have."""
    if options.role == "client":
        gateways = [url.strip().rstrip("/") for url in options.gateway.split(",")]
        return Subject("client", Host(), gateways=gateways, api_key=options.api_key)
    arguments = ["--config", options.config] if options.config else []
    subject = Subject(options.role, Host(), arguments=arguments)
    if importlib.util.find_spec("pydantic_settings") is None:
        subject.problems = [f"they cannot be read: pip install 'shoal[{options.role}]'"]
        return subject
    from shoal.settings import GatewaySettings, InvalidSettings, WorkerSettings

    try:
        subject.settings = (GatewaySettings if options.role == "gateway" else WorkerSettings).load(arguments)
    except InvalidSettings as error:
        subject.problems = error.problems
    return subject


def variables_in(text: str) -> dict[str, str]:
    """What systemd makes of an ``EnvironmentFile=``: NAME=VALUE on each line, with quotes around the value or not."""
    found = {}
    for line in text.splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith(("#", ";")):
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found[name.strip()] = value[1:-1] if quoted else value
    return found


def show(report: Report, stream: TextIO) -> None:
    """A line for each check, and what to do under those that are not well."""
    for made in report.made:
        finding = made.finding
        stream.write(f"{_MARKS[finding.level]:<8} {made.code:<18} {finding.found}\n")
        if finding.advice:
            stream.write(f"{'':27} -> {finding.advice}\n")
    if report.not_made:
        stream.write(f"not made without settings: {', '.join(report.not_made)}\n")
    problems, warnings = report.count("problem"), report.count("warning")
    stream.write(f"{report.role}: {problems} problems, {warnings} warnings, {report.count('ok')} ok\n")
