"""The contestants: which server each one is, how it is started, and how a photo is sent to it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench import shoal_peer
from bench.load import Album, Send, Unavailable, WrongAnswer, check, post
from bench.model import Task
from bench.processes import Failed, NotMeasured, Tree

_START_SECONDS = 150.0
_RETRY_SECONDS = 0.25


@dataclass(frozen=True)
class Server:
    """A process tree that answers. ``facts`` is what its senders need to know, ``url`` or Shoal's own line."""

    name: str
    tree: Tree
    facts: Mapping[str, Any]
    reader: asyncio.Task[None] = field(repr=False)

    async def stop(self) -> None:
        await self.tree.stop()
        await self.reader  # ends with the output


@dataclass(frozen=True)
class Kind:
    """How to start one server. A ``pausable`` one is stopped by signal while others are measured."""

    requires: tuple[str, ...]
    start: Callable[[Task, Path], Awaitable[tuple[Tree, Mapping[str, Any]]]]
    pausable: bool = True


@dataclass(frozen=True)
class Contestant:
    """One row of the table: a way to ask a server."""

    title: str
    server: str
    sender: Callable[[Mapping[str, Any]], Send]


class RawBody:
    """POST the JPEG itself."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._url = facts["url"]

    async def __call__(self, session: aiohttp.ClientSession, jpeg: bytes) -> Mapping[str, Any]:
        return await post(session, self._url, data=jpeg, headers={"Content-Type": "image/jpeg"})


class Upload(RawBody):
    """POST the JPEG as the file ``image`` of a form."""

    async def __call__(self, session: aiohttp.ClientSession, jpeg: bytes) -> Mapping[str, Any]:
        form = aiohttp.FormData()
        form.add_field("image", jpeg, filename="photo.jpg", content_type="image/jpeg")
        return await post(session, self._url, data=form)


def _module(module: str, path: str, *options: str) -> Callable[[Task, Path], Awaitable[tuple[Tree, dict[str, Any]]]]:
    async def start(task: Task, folder: Path) -> tuple[Tree, dict[str, Any]]:
        port = free_port()
        tree = await Tree.of_module(module, ["--port", str(port), *options], task.environ(), folder)
        return tree, {"url": f"http://127.0.0.1:{port}{path}"}

    return start


async def _shoal(task: Task, folder: Path) -> tuple[Tree, dict[str, Any]]:
    tree = await Tree.start("shoal", shoal_peer.command(task), {}, folder)
    try:
        return tree, json.loads(await tree.line(_START_SECONDS))
    except (NotMeasured, ValueError):
        await tree.stop()
        raise


KINDS = {
    "shoal": Kind(("shoal.cli",), _shoal, pausable=False),  # its processes watch each other's clocks
    "origin": Kind(("flask", "redis"), _module("bench.origin_peer", "/predict")),
    "mosec": Kind(
        ("mosec",), _module("bench.mosec_peer", "/inference", "--address", "127.0.0.1", "--timeout", "60000")
    ),
    "litserve": Kind(("litserve", "python_multipart"), _module("bench.litserve_peer", "/predict")),
}

CONTESTANTS = {
    "shoal-proxy": Contestant("Shoal by proxy", "shoal", shoal_peer.Proxy),
    "shoal-direct": Contestant("Shoal direct", "shoal", shoal_peer.Direct),
    "origin": Contestant("the origin's design", "origin", Upload),
    "mosec": Contestant("Mosec", "mosec", RawBody),
    "litserve": Contestant("LitServe", "litserve", Upload),
}


async def start(name: str, task: Task, folder: Path, album: Album) -> Server:
    """Start the server ``name`` and wait for one correct prediction. Raises ``NotMeasured``, ``Failed``."""
    kind = KINDS[name]
    absent = [module for module in kind.requires if not _importable(module)]
    if absent:
        raise NotMeasured(f"not installed: {', '.join(absent)}")
    try:
        tree, facts = await kind.start(task, folder)
    except (OSError, ValueError) as error:
        raise NotMeasured(f"{type(error).__name__}: {error}") from error
    server = Server(name, tree, facts, asyncio.create_task(tree.swallow_output()))
    try:
        for contestant in CONTESTANTS.values():
            if contestant.server == name:
                await _until_correct(contestant.sender(facts), album, tree)
    except NotMeasured:
        await server.stop()
        raise
    return server


async def _until_correct(send: Send, album: Album, tree: Tree) -> None:
    deadline = time.monotonic() + _START_SECONDS
    reason = ""
    while time.monotonic() < deadline:
        if tree.ended:
            raise NotMeasured(f"ended{tree.last_words()}")
        try:
            await check(send, album)
        except WrongAnswer as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, Unavailable) as error:
            reason = f"{type(error).__name__}: {error}"
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return
    raise NotMeasured(f"no correct answer within {_START_SECONDS:g} s: {reason}{tree.last_words()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
