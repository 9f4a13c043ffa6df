"""What an operator does from the command line: ``shoal nodes``, ``drain``, ``restart`` and ``quarantine``.

They speak with the admin sockets of the nodes, NAME.sock in one folder, and with ``launcher.sock`` beside them
where ``shoal up`` runs the nodes; or with admin listeners on https. Only the standard library and aiohttp are needed.
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
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from shoal import sockets
from shoal.places import Control, NotPossible, Place, Remote, places

__all__ = ["NotPossible", "add_commands", "drain", "find_control", "nodes", "quarantine", "restart"]

_LAUNCHER = "launcher"
_LOOK = 0.2


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
            help="the folder of the admin sockets, or https://HOST:PORT,… of admin listeners; "
            "default: $SHOAL_CONTROL, or the folder of the only local cluster",
        )
        for name in _FILES:
            variable = f"SHOAL_ADMIN_{name.upper()}"
            command.add_argument(
                f"--{name}", default=os.environ.get(variable), metavar="FILE", help=f"for https; default: ${variable}"
            )


_FILES = ("certificate", "key", "ca")


def _control(options: argparse.Namespace) -> Control:
    if (options.control or "").startswith("https://"):
        return Remote.of(options.control, [getattr(options, name) for name in _FILES])
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


async def nodes(control: Control) -> list[dict[str, Any]]:
    """Every node that the launcher runs, or else every one whose admin listener answers.

    Raises ``NotPossible``, also when one of those at URLs does not answer.
    """
    if isinstance(control, Path) and sockets.answers(launcher := _socket(control, _LAUNCHER)):
        async with Place(str(launcher)).asked("GET", "/nodes") as response:
            found: list[dict[str, Any]] = (await response.json())["nodes"]
            return found
    return [await _state(place) for place in places(control)]


def _socket(control: Path, name: str) -> Path:
    return control / f"{name}.sock"


async def _state(place: Place) -> dict[str, Any]:
    async with place.asked("GET", "/state") as response:
        state = await response.json()
    return {
        "name": state["name"] if place.is_remote else place.name,
        "service": state["role"],
        "state": "draining" if state["draining"] else "running",
        "pids": state["pids"],
    }


async def drain(control: Control, name: str, *, wait: bool) -> None:
    """Ask a node to drain and, with ``wait``, report its end. Raises ``NotPossible``."""
    if isinstance(control, Remote):
        await _drain_remote(control, name, wait=wait)
    else:
        await _drain_here(control, name, wait=wait)


async def _drain_here(control: Path, name: str, *, wait: bool) -> None:
    path = _socket(control, name)
    if name == _LAUNCHER or not sockets.answers(path):
        raise NotPossible(await _why_not(control, name))
    began = time.monotonic()
    end = _end_of_process(path)
    try:
        async with Place(str(path)).asked("POST", "/drain"):
            _say(f"{name} is draining…")
        if wait:
            await _readable(end)
            _say(f" ended after {time.monotonic() - began:.1f} s")
    finally:
        os.close(end)
        _say("\n")


async def _drain_remote(control: Remote, name: str, *, wait: bool) -> None:
    states = {place: await _state(place) for place in places(control)}
    place = next((place for place, state in states.items() if state["name"] == name), None)
    if place is None:
        raise NotPossible(_no_such_node(name, [state["name"] for state in states.values()]))
    began = time.monotonic()
    async with place.asked("POST", "/drain"):
        _say(f"{name} is draining…")
    try:
        while wait and await _is_same(place, states[place]):  # noqa: ASYNC110  its end is no event for us
            await asyncio.sleep(_LOOK)
        _say(f" ended after {time.monotonic() - began:.1f} s" if wait else "")
    finally:
        _say("\n")


async def _is_same(place: Place, before: Mapping[str, Any]) -> bool:
    """Whether the process that was there is there: it has not ended, nor has another one started."""
    service = before["service"]
    try:
        return bool((await _state(place))["pids"][service] == before["pids"][service])
    except NotPossible:
        return False


async def _why_not(control: Path, name: str) -> str:
    states = {node["name"]: node["state"] for node in await nodes(control)}
    if name in states:
        return f"{name} does not listen: it is {states[name]}"
    return _no_such_node(name, list(states))


def _no_such_node(name: str, there_are: Sequence[str]) -> str:
    return f"there is no node {name!r}; there are {', '.join(there_are) or 'none'}"


async def restart(control: Control, names: Sequence[str] = ()) -> None:
    """Restart nodes in turn, by default all, and report each step. Raises ``NotPossible`` when one of them fails."""
    path = _socket(control, _LAUNCHER) if isinstance(control, Path) else None
    if path is None or not sockets.answers(path):
        raise NotPossible(
            f"{path or control}: no launcher answers, and without 'shoal up' it is not us who start nodes"
        )
    step: Mapping[str, Any] = {}
    query = "?" + urlencode([("node", name) for name in names])
    async with Place(str(path)).asked("POST", "/restart" + query, aiohttp.ClientTimeout(total=None)) as response:
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


async def quarantine(control: Control, release: str | None, *, as_json: bool = False) -> None:
    """Show the quarantined images of all workers, or release one or ``all``. Raises ``NotPossible``."""
    states = {place: await _state(place) for place in places(control) if place.is_remote or place.name != _LAUNCHER}
    workers = {place: state["name"] for place, state in states.items() if state["service"] == "worker"}
    if not workers:
        raise NotPossible(f"no worker answers in {control}")
    found = [(place, entry) for place in workers for entry in await _quarantined(place)]
    if release is None:
        entries = [{"worker": workers[place], **entry} for place, entry in found]
        _say(json.dumps(entries) + "\n" if as_json else _quarantine_table(entries))
        return
    chosen = [(place, entry["digest"]) for place, entry in found if release in ("all", entry["digest"])]
    if release != "all" and not chosen:
        raise NotPossible(f"{release} is not in quarantine on any worker")
    for place, digest in chosen:
        async with place.asked("DELETE", f"/quarantine/{digest}"):
            _say(f"{workers[place]} takes {digest} again\n")


async def _quarantined(place: Place) -> list[dict[str, Any]]:
    async with place.asked("GET", "/quarantine") as response:
        found: list[dict[str, Any]] = (await response.json())["quarantined"]
        return found


def _quarantine_table(found: list[dict[str, Any]]) -> str:
    row = "{:<16} {:<20} {:<64} {:<20} {}\n"
    text = row.format("WORKER", "MODEL", "SHA256 OF THE IMAGE", "SINCE (UTC)", "REQUEST")
    for entry in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry["since"]))
        text += row.format(entry["worker"], entry["model"], entry["digest"], since, entry["request_id"])
    return text if found else "no image is in quarantine\n"


async def _show(control: Control, *, as_json: bool) -> None:
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
