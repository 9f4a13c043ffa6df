"""What an operator does from the command line: ``shoal nodes``, ``drain``, ``restart`` and ``quarantine``.

They speak with the admin sockets of the nodes, NAME.sock in one folder, and with ``launcher.sock`` beside them
where ``shoal up`` runs the nodes. Only the standard library and aiohttp are needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from shoal import sockets

_LAUNCHER = "launcher"
_ASKING = aiohttp.ClientTimeout(total=10)


class NotPossible(Exception):
    """What was asked cannot be done; the message says why."""


def add_commands(commands: Any) -> None:
    """Add the commands to the ``add_subparsers`` of the command line."""
    show = commands.add_parser("nodes", help="show the nodes of a cluster and their processes")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(command=lambda options: _run(_show(_control(options), as_json=options.json)))
    stop = commands.add_parser("drain", help="stop one node when it has finished what it has; it stays down")
    stop.add_argument("node", metavar="NODE")
    stop.add_argument("--no-wait", dest="wait", action="store_false", help="return before it has ended")
    stop.set_defaults(command=lambda options: _run(drain(_control(options), options.node, wait=options.wait)))
    again = commands.add_parser("restart", help="restart nodes of 'shoal up' one after the other")
    which = again.add_mutually_exclusive_group(required=True)
    which.add_argument("nodes", nargs="*", default=[], metavar="NODE", help="these; one that is down is started")
    which.add_argument("--rolling", action="store_true", help="all that are not down: workers, then gateways")
    again.set_defaults(command=lambda options: _run(restart(_control(options), options.nodes)))
    refused = commands.add_parser("quarantine", help="show the images that killed their model process, or release them")
    refused.add_argument("--release", metavar="DIGEST", help="of one image, or 'all'")
    refused.add_argument("--json", action="store_true", help="print JSON")
    refused.set_defaults(
        command=lambda options: _run(quarantine(_control(options), options.release, as_json=options.json))
    )
    for command in (show, stop, again, refused):
        command.add_argument(
            "--control",
            default=os.environ.get("SHOAL_CONTROL"),
            metavar="DIR",
            help="the folder of the admin sockets; default: $SHOAL_CONTROL, or that of the only local cluster",
        )


def _control(options: argparse.Namespace) -> Path:
    return find_control(options.control)


def _run(work: Coroutine[Any, Any, None]) -> int:
    asyncio.run(work)
    return 0


def find_control(named: str | None) -> Path:
    """The folder of the admin sockets: ``named``, else that of the only local cluster. Raises ``NotPossible``."""
    if named:
        if not Path(named).is_dir():
            raise NotPossible(f"{named} is not a folder")
        return Path(named)
    place = Path(tempfile.gettempdir())
    found = sorted(path.parent for path in place.glob(f"shoal-*/control/{_LAUNCHER}.sock") if sockets.answers(path))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} clusters run here:\n  " + "\n  ".join(map(str, found)) if found else f"none runs in {place}"
    raise NotPossible(f"which cluster? Name its folder with --control DIR or $SHOAL_CONTROL; {what}")


async def nodes(control: Path) -> list[dict[str, Any]]:
    """Every node that the launcher runs, or else every one whose admin socket answers."""
    launcher = control / f"{_LAUNCHER}.sock"
    if sockets.answers(launcher):
        async with _asked(launcher, "GET", "/nodes") as response:
            found: list[dict[str, Any]] = (await response.json())["nodes"]
            return found
    return [await _state(path) for path in _answering(control)]


def _answering(control: Path) -> list[Path]:
    return [path for path in sorted(control.glob("*.sock")) if sockets.answers(path)]


async def _state(path: Path) -> dict[str, Any]:
    async with _asked(path, "GET", "/state") as response:
        state = await response.json()
    return {
        "name": path.stem,
        "service": state["role"],
        "state": "draining" if state["draining"] else "running",
        "pids": state["pids"],
    }


async def drain(control: Path, name: str, *, wait: bool) -> None:
    """Ask a node to drain and, with ``wait``, report its end. Raises ``NotPossible``."""
    path = control / f"{name}.sock"
    if name == _LAUNCHER or not sockets.answers(path):
        raise NotPossible(await _why_not(control, name))
    began = time.monotonic()
    end = _end_of_process(path)
    try:
        async with _asked(path, "POST", "/drain"):
            _say(f"{name} is draining…")
        if wait:
            await _readable(end)
            _say(f" ended after {time.monotonic() - began:.1f} s")
    finally:
        os.close(end)
        _say("\n")


async def _why_not(control: Path, name: str) -> str:
    states = {node["name"]: node["state"] for node in await nodes(control)}
    if name in states:
        return f"{name} does not listen: it is {states[name]}"
    return f"there is no node {name!r}; there are {', '.join(states) or 'none'}"


async def restart(control: Path, names: Sequence[str] = ()) -> None:
    """Restart nodes in turn, by default all, and report each step. Raises ``NotPossible`` when one of them fails."""
    path = control / f"{_LAUNCHER}.sock"
    if not sockets.answers(path):
        raise NotPossible(f"{path}: no launcher answers, and without 'shoal up' it is not us who start nodes")
    step: Mapping[str, Any] = {}
    query = "?" + urlencode([("node", name) for name in names])
    async with _asked(path, "POST", "/restart" + query, aiohttp.ClientTimeout(total=None)) as response:
        async for line in response.content:
            step = json.loads(line)
            _say(_line(step))
    if step.get("event") != "done":
        raise NotPossible(step.get("message", "the launcher went away"))


def _line(step: Mapping[str, Any]) -> str:
    match step["event"]:
        case "draining":
            return f"{step['node']} is draining…"
        case "ended":
            return f" ended after {step['seconds']:.1f} s\n"
        case "starting":
            return f"{step['node']} is starting…"
        case "ready":
            return f" ready after {step['seconds']:.1f} s\n"
        case "skipped":
            return f"{step['node']}: {step['message']}\n"
        case "done":
            return f"restarted {step['nodes']} of {step['of']} nodes in {step['seconds']:.1f} s\n"
    return "\n"  # after "is starting…", before the complaint


async def quarantine(control: Path, release: str | None, *, as_json: bool = False) -> None:
    """Show the quarantined images of all workers, or release one or ``all``. Raises ``NotPossible``."""
    states = {path: await _state(path) for path in _answering(control) if path.stem != _LAUNCHER}
    workers = [path for path, state in states.items() if state["service"] == "worker"]
    if not workers:
        raise NotPossible(f"no worker answers in {control}")
    found = [entry for path in workers for entry in await _quarantined(path)]
    if release is None:
        _say(json.dumps(found) + "\n" if as_json else _quarantine_table(found))
        return
    chosen = [entry for entry in found if release in ("all", entry["digest"])]
    if release != "all" and not chosen:
        raise NotPossible(f"{release} is not in quarantine on any worker")
    for entry in chosen:
        async with _asked(control / f"{entry['worker']}.sock", "DELETE", f"/quarantine/{entry['digest']}"):
            _say(f"{entry['worker']} takes {entry['digest']} again\n")


async def _quarantined(path: Path) -> list[dict[str, Any]]:
    async with _asked(path, "GET", "/quarantine") as response:
        return [{"worker": path.stem, **entry} for entry in (await response.json())["quarantined"]]


def _quarantine_table(found: list[dict[str, Any]]) -> str:
    row = "{:<16} {:<20} {:<64} {:<20} {}\n"
    text = row.format("WORKER", "MODEL", "SHA256 OF THE IMAGE", "SINCE (UTC)", "REQUEST")
    for entry in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry["since"]))
        text += row.format(entry["worker"], entry["model"], entry["digest"], since, entry["request_id"])
    return text if found else "no image is in quarantine\n"


async def _show(control: Path, *, as_json: bool) -> None:
    found = await nodes(control)
    _say(json.dumps(found) + "\n" if as_json else _table(found))


def _table(found: list[dict[str, Any]]) -> str:
    """``nodes`` for people."""
    row = "{:<16} {:<8} {:<9} {:>8}  {}\n"
    text = row.format("NODE", "SERVICE", "STATE", "RESTARTS", "PROCESSES")
    for node in found:
        processes = ", ".join(f"{role} {' '.join(map(str, pids))}" for role, pids in node["pids"].items() if pids)
        text += row.format(node["name"], node["service"], node["state"], node.get("restarts", "-"), processes)
    return text


@asynccontextmanager
async def _asked(
    path: Path, method: str, call: str, timeout: aiohttp.ClientTimeout = _ASKING
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer of the process behind the unix socket ``path``. Raises ``NotPossible``."""
    connector = aiohttp.UnixConnector(str(path))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://admin{call}") as response,
        ):
            if not response.ok:
                raise NotPossible((await response.json())["error"])
            yield response
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotPossible(f"{path.stem} does not answer: {error or type(error).__name__}") from error


def _end_of_process(path: Path) -> int:
    """A file descriptor that becomes readable when the process behind the unix socket ``path`` has ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(str(path))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    return os.pidfd_open(pid)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    loop.add_reader(descriptor, happened.set)
    try:
        await happened.wait()
    finally:
        loop.remove_reader(descriptor)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
