"""``python -m nginx``: write nginx's configuration, and keep it with the fleet. ``shoal nginx`` is the same.

``--print`` writes it to standard output instead, once, and ``--once`` into its file, with a reload.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from discovery import DiscoveryUnavailable
from nginx.following import Follower
from nginx.program import NotDone, Program
from nginx.rendering import render
from shoal import logs, processes, service
from shoal.nginx_settings import NginxSettings
from shoal.settings import InvalidSettings

log = logging.getLogger("nginx")

_ONCE, _PRINT = "--once", "--print"


async def show(settings: NginxSettings) -> int:
    """The text alone. It needs a first gateway."""
    program = await Program.of(settings)
    async with Follower.connect(settings, program) as follower:
        edge = await follower.edge()
    if edge is None:
        raise NotDone("no gateway is known")
    sys.stdout.write(render(edge))
    return 0


async def once(settings: NginxSettings) -> int:
    program = await Program.of(settings)
    async with Follower.connect(settings, program) as follower:
        if await follower.edge() is None:
            raise NotDone("no gateway is known")
        return 0 if await follower.take() else 1


async def serve(settings: NginxSettings) -> int:
    """Follow until SIGTERM; then nginx ends too, if we have started it."""
    stop = service.Stop()
    stop.listen()
    program = await Program.of(settings)
    async with (
        program.running(),
        Follower.connect(settings, program) as follower,
        service.background(follower.run(), _tell(follower)),
    ):
        await stop.requested()
    return 0


async def _tell(follower: Follower) -> None:
    await follower.ready.wait()
    log.info("ready", extra={"follower": repr(follower)})
    processes.tell_parent({"event": "ready", "pids": {"nginx": [os.getpid()]}})


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 done, 1 it failed, 2 it was asked wrongly."""
    rest = [word for word in argv if word not in (_ONCE, _PRINT)]
    verb = show if _PRINT in argv else once if _ONCE in argv else serve
    try:
        settings = NginxSettings.load(rest)
    except InvalidSettings as error:
        sys.stderr.write("".join(f"nginx: {problem}\n" for problem in error.problems))
        return 2
    logs.configure(settings.log_level, role="nginx", instance="", pid=str(os.getpid()))
    try:
        return service.run(verb(settings))
    except (NotDone, DiscoveryUnavailable, OSError, ValueError) as error:
        sys.stderr.write(f"shoal nginx: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
