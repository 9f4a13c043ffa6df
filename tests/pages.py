"""The documentation as a test follows it: the blocks of a page, and a reader who types them.

A page says by comments on lines of their own what becomes of its commands (``sh``, ``console`` and ``python`` blocks):

``<!-- run -->``                    those that follow are typed, in order, each page in an empty folder of its own
``<!-- not run: REASON -->``        those that follow are not, until the next ``run``
``<!-- before: COMMANDS -->``       what the reader has done already
``<!-- terminal: COMMANDS -->``     what the reader has running already, in another terminal
``<!-- another terminal -->``       the next block stays running in another terminal
``<!-- Ctrl-C -->``                 the reader stops what runs in the other terminals
``<!-- settings only -->``          the next block's services only say whether they understand their settings
``<!-- file: NAME -->``             the next block is not typed but written to this file

A terminal is ready when it has said how to stop what it runs; ``another terminal until URL`` and ``terminal until
URL: COMMANDS`` wait until that URL answers instead. What it tells the reader to export is exported.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.consul_server import find_consul, free_port

ROOT = Path(__file__).parent.parent
COMMANDS = ("sh", "console", "python")
READY = "Ctrl-C stops the cluster"
BLOCK_SECONDS = 150.0
_ANY_CERTIFICATE = ssl._create_unverified_context()  # a page may have made its own
_MARK = re.compile(
    r"<!-- (run|not run|before|terminal|another terminal|Ctrl-C|settings only|file)( until \S+?)?(?:: (.*?))? -->"
)
_TYPED = re.compile(r"(\.venv/bin/)?(\$|shoal|make|curl|pip|python|consul|nginx) ")
_PORT = re.compile(r"(?<=[: =\[])([89]\d{3})\b(?![.\d])")


class Unclear(Exception):
    """A page that does not say what becomes of its commands; the message names the line."""


@dataclass(frozen=True)
class Step:
    """One thing that the reader of a page does, sees already done, or (with a ``reason``) leaves."""

    line: int
    kind: str  # sh, console, python; before, terminal, Ctrl-C; file; left
    text: str
    until: str = ""
    name: str = ""


def steps(page: str) -> list[Step]:
    """What a page has its reader do, in order. Raises ``Unclear``."""
    found: list[Step] = []
    runs: bool | None = None
    reason, name, until, elsewhere, settings = "", "", "", False, False
    for number, mark, language, text in _parts(page):
        if mark:
            verb, waiting, value = mark.group(1), (mark.group(2) or "").removeprefix(" until "), mark.group(3) or ""
            if verb in ("run", "not run"):
                runs, reason = verb == "run", value
                if not runs and len(value) < 8:
                    raise Unclear(f"line {number}: not run, and it does not say why")
            elif verb in ("before", "terminal", "Ctrl-C"):
                found.append(Step(number, verb, value, waiting))
            elif verb == "another terminal":
                elsewhere, until = True, waiting
            elif verb == "settings only":
                settings = True
            else:
                name = value
            continue
        if name:
            found.append(Step(number, "file", text, name=name))
        elif language in COMMANDS:
            if runs is None:
                raise Unclear(f"line {number}: neither run nor said why not")
            kind = "left" if not runs else "terminal" if elsewhere else language
            if settings:
                text = re.sub(r"^shoal (gateway|worker)\b", r"shoal settings \1", text, flags=re.MULTILINE)
            found.append(Step(number, kind, text if runs else reason, until))
        elif language in ("", "text") and _TYPED.match(text):
            raise Unclear(f"line {number}: commands in a block that is not 'sh'")
        name, until, elsewhere, settings = "", "", False, False
    return found


def _parts(page: str) -> Iterator[tuple[int, re.Match[str] | None, str, str]]:
    """The comments and the blocks of a page: line, comment, language, text."""
    fence, language, lines, start = "", "", [""], 0
    for number, line in enumerate(page.splitlines(), 1):
        opened = re.match(r" *(`{3,})(\w*)", line)
        if fence and line.strip() == fence:
            yield start, None, language, "\n".join(lines) + "\n"
            fence = ""
        elif fence:
            lines.append(line)
        elif opened:
            fence, language, lines, start = opened.group(1), opened.group(2), [], number
        elif mark := _MARK.fullmatch(line.strip()):
            yield number, mark, "", ""
        elif line.strip().startswith("<!-- ") and re.match(r"<!-- (\w+ )*(run|terminal|before|file)\b", line.strip()):
            raise Unclear(f"line {number}: what is {line.strip()}?")


class Reader:
    """Who follows a page: a folder, the variables of a shell, and other terminals.

    The folder has links to what a clone has. Ports that a page names become free ones; ``consul`` gets free ones too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports: dict[str, str] = {}
        self._terminals: list[tuple[subprocess.Popen[bytes], Path, str]] = []
        (folder / "tmp").mkdir()
        (folder / "bin").mkdir()
        for name in ("examples", "loadtest", "docs"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        self._write_consul()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "CONSUL_HTTP"))}
        path = os.pathsep.join((str(folder / "bin"), str(Path(sys.prefix) / "bin"), kept["PATH"], "/usr/sbin"))
        self._environ = kept | {"PATH": path, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
        self._variables = folder / "tmp" / "variables"
        self._variables.write_text("")

    def has(self, program: str) -> bool:
        return shutil.which(program, path=self._environ["PATH"]) is not None

    def follow(self, found: list[Step]) -> None:
        for step in found:
            text = _PORT.sub(self._port, step.text)
            if step.kind == "file":
                (self.folder / step.name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / step.name).write_text(text, encoding="utf-8")
            elif step.kind == "terminal":
                self._open_terminal(step, text)
            elif step.kind == "Ctrl-C":
                self.leave()
            elif step.kind == "python":
                (self.folder / "tmp" / "block.py").write_text(text, encoding="utf-8")
                self._type(step, "python tmp/block.py")
            elif step.kind == "console":
                self._type(step, "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ ")))
            elif step.kind != "left":
                self._type(step, text)

    def _port(self, found: re.Match[str]) -> str:
        return self._ports.setdefault(found.group(1), str(free_port()))

    def _type(self, step: Step, text: str) -> None:
        script = f"set -aeuo pipefail\n. {self._variables}\n{text}\nexport -p > {self._variables}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
        )
        assert done.returncode == 0, f"line {step.line}: exit code {done.returncode}\n{text}\n{done.stdout}"

    def _open_terminal(self, step: Step, text: str) -> None:
        output = self.folder / "tmp" / f"terminal{step.line}.log"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                ["bash", "-c", f". {self._variables}\n{text}"],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._terminals.append((process, output, text))
        url = _PORT.sub(self._port, step.until)
        ready = (lambda: _answers(url)) if url else (lambda: READY in output.read_text(errors="replace"))
        _wait(ready, process, lambda: f"line {step.line}:\n{text}\n{output.read_text(errors='replace')}")
        with self._variables.open("a", encoding="utf-8") as variables:
            variables.writelines(
                re.findall(r"^ +(export SHOAL_.*\n)", output.read_text(errors="replace"), re.MULTILINE)
            )

    def _write_consul(self) -> None:
        binary = find_consul()
        if binary is None:
            return
        ports = " ".join(f"-{name}-port={free_port()}" for name in ("server", "serf-lan", "serf-wan", "dns"))
        http = self._ports.setdefault("8500", str(free_port()))
        wrapper = self.folder / "bin" / "consul"
        wrapper.write_text(
            f'#!/bin/bash\nif [[ $1 == agent ]]; then set -- "$@" {ports} -http-port={http} -grpc-port=-1; fi\n'
            f'CONSUL_HTTP_ADDR=127.0.0.1:{http} exec {binary} "$@"\n'
        )
        wrapper.chmod(0o755)

    def leave(self) -> None:
        """Press Ctrl-C in every terminal."""
        terminals, self._terminals = self._terminals[::-1], []
        for process, _, _ in terminals:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        for process, output, text in terminals:
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise AssertionError(f"Ctrl-C did not stop {text}\n{output.read_text(errors='replace')}") from None
            assert code == 0 or "shoal" not in text, f"{text} ended with {code}\n{output.read_text(errors='replace')}"


@contextmanager
def reader() -> Iterator[Reader]:
    folder = Path(tempfile.mkdtemp(prefix="page-"))  # short: there are unix sockets in it
    following = Reader(folder)
    try:
        yield following
    finally:
        following.leave()
        subprocess.run(["rm", "-rf", folder], check=True)  # not rmtree: janitors of clusters are removing theirs


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], said: Callable[[], str]) -> None:
    ends = time.monotonic() + BLOCK_SECONDS
    while not ready():
        assert process.poll() is None, f"ended with {process.returncode}: {said()}"
        assert time.monotonic() < ends, f"not ready: {said()}"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=_ANY_CERTIFICATE) as answer:
            return bool(answer.status < 400)
    except (urllib.error.URLError, OSError):
        return False
