"""The launcher's control socket: which nodes there are, and a restart of one after the other."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from shoal import admin
from shoal.node import DidNotStart, Instance

log = logging.getLogger(__name__)

LAUNCHER = "launcher"

Step = dict[str, Any]


@asynccontextmanager
async def listening(folder: Path, instances: Sequence[Instance]) -> AsyncIterator[None]:
    """Serve on ``launcher.sock`` in ``folder``. A restart under way ends with the listener."""
    control = Control(instances)
    try:
        async with admin.listening(folder / f"{LAUNCHER}.sock", control.calls()):
            yield
    finally:
        await control.cancel()


class Control:
    """The calls of the launcher, and the one restart that may be under way."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = instances
        self._restart: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Control {len(self._instances)} nodes, {'restarting' if self._is_restarting() else 'idle'}>"

    def calls(self) -> list[web.AbstractRouteDef]:
        return [web.get("/nodes", self._nodes), web.post("/restart", self._restart_all)]

    async def cancel(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            with suppress(asyncio.CancelledError):
                await self._restart

    def _is_restarting(self) -> bool:
        return self._restart is not None and not self._restart.done()

    async def _nodes(self, request: web.Request) -> web.Response:
        return web.json_response({"nodes": [instance.document() for instance in self._instances]})

    async def _restart_all(self, request: web.Request) -> web.StreamResponse:
        """One line of JSON for each step. The restart goes on when the one who asked has gone."""
        if self._is_restarting():
            return web.json_response({"error": "a restart is under way; wait until it has ended"}, status=409)
        wanted = request.query.getall("node", [])
        chosen = [instance for instance in self._instances if instance.name in wanted]
        if unknown := sorted(set(wanted) - {instance.name for instance in chosen}):
            known = ", ".join(instance.name for instance in self._instances)
            return web.json_response({"error": f"there is no node {', '.join(unknown)}; there are {known}"}, status=404)
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        rolling = roll(chosen) if wanted else roll(self._instances, skip_down=True)
        self._restart = asyncio.create_task(self._run(rolling, steps))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        while (step := await steps.get()) is not None:
            await response.write(json.dumps(step).encode() + b"\n")
        return response

    async def _run(self, rolling: AsyncIterator[Step], steps: asyncio.Queue[Step | None]) -> None:
        try:
            async for step in rolling:
                log.info("restart", extra={"step": step})
                steps.put_nowait(step)
        finally:
            steps.put_nowait(None)


async def roll(instances: Sequence[Instance], *, skip_down: bool = False) -> AsyncIterator[Step]:
    """Restart nodes one after the other, workers first, and yield what happens.

    The next one is stopped when the last one is ready again. One that is down is started, or left alone with
    ``skip_down``. The last step is ``done``, or ``error`` when a node did not drain or did not come back; then the
    others are left as they are.
    """
    began = time.monotonic()
    restarted = 0
    for instance in sorted(instances, key=lambda i: i.node.service != "worker"):
        if skip_down and instance.state == "down":
            yield {"event": "skipped", "node": instance.name, "message": "it is down and stays so"}
            continue
        async for step in _restart_one(instance):
            yield step
            if step["event"] == "error":
                return
        restarted += 1
    yield {"event": "done", "nodes": restarted, "of": len(instances), "seconds": _since(began)}


async def _restart_one(instance: Instance) -> AsyncIterator[Step]:
    code = 0
    began = time.monotonic()
    if instance.state != "down":
        yield {"event": "draining", "node": instance.name}
        code = await instance.stop()
        yield {"event": "ended", "node": instance.name, "code": code, "seconds": _since(began)}
        began = time.monotonic()
    yield {"event": "starting", "node": instance.name}
    try:
        await instance.start()
    except DidNotStart as error:
        yield {"event": "error", "node": instance.name, "message": f"{instance.name} did not come back: {error}"}
        return
    yield {"event": "ready", "node": instance.name, "seconds": _since(began)}
    if code != 0:
        message = f"{instance.name} did not drain: it ended with exit code {code}"
        yield {"event": "error", "node": instance.name, "message": message}


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
