"""Child processes that never outlive their parent, and talk with it in lines of JSON.

A child gets its orders on standard input and reports events on standard output. The open input is also its
lifeline: end-of-file, or the kernel's parent-death signal, ends it whatever happened to the parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import IO, Any

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LONGEST_EVENT = 1 << 24


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Survives exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


class Child:
    """One started process. ``events`` ends when the process does."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._told_to_stop = False

    def __repr__(self) -> str:
        code = self._process.returncode
        return f"<Child {self.name} {self.pid} {'running' if code is None else f'exited {code}'}>"

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        orders: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stderr: IO[bytes] | None = None,
    ) -> Child:
        """Start ``command``; ``orders`` is the first line of its standard input. Its log goes where ours goes,
        or to ``stderr``."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environ or {})},
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C is for us alone: our SIGTERM would be their second signal
            limit=_LONGEST_EVENT,
        )
        child = cls(name, process)
        if orders is not None:
            child.send(orders)
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def send(self, order: Mapping[str, Any]) -> None:
        """Write one line to the child. A dead child is no error: whoever waits on it will see."""
        assert self._process.stdin is not None
        with suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(json.dumps(order, separators=(",", ":")).encode() + b"\n")

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects that the child prints, until it ends; other output is logged."""
        async for line in self._lines():
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                yield event
            else:
                log.info("output", extra={"child": self.name, "line": line[:200].decode(errors="replace")})

    async def _lines(self) -> AsyncIterator[bytes]:
        sweeping = asyncio.create_task(self._sweep())
        try:
            while line := await self._line():
                yield line
        finally:
            sweeping.cancel()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        while True:
            try:
                return await self._process.stdout.readline()
            except ValueError:
                log.warning("output without an end of the line, dropped", extra={"child": self.name})

    async def _sweep(self) -> None:
        """End what the child leaves behind in its session: it would hold the output open, and memory."""
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(process, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(process)
            os.close(process)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        return await self._process.wait()

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, timeout: float) -> int:
        """SIGTERM, and SIGKILL when it has not ended after ``timeout`` seconds."""
        if self.returncode is None:
            if not self._told_to_stop:  # a second SIGTERM would end it at once
                self._told_to_stop = True
                self.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout):
                    return await self.wait()
            except TimeoutError:
                log.warning("killed: did not stop in time", extra={"child": self.name, "seconds": timeout})
                self.signal(signal.SIGKILL)
        return await self.wait()


def tell_parent(event: Mapping[str, Any]) -> None:
    """Print one event for the parent."""
    _tell(sys.stdout, event)


def only_to_parent() -> Callable[[Mapping[str, Any]], None]:
    """Another ``tell_parent``, for a process with foreign code in it: what that prints goes to the log from now on."""
    sys.stdout.flush()
    parent = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return partial(_tell, parent)


def _tell(parent: IO[str], event: Mapping[str, Any]) -> None:
    parent.write(json.dumps(event, separators=(",", ":")) + "\n")
    parent.flush()


def bound(command: Sequence[str]) -> list[str]:
    """``command`` for a foreign program, started by us so that it dies with us."""
    return [sys.executable, "-m", "shoal.processes", str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        raise SystemExit(1)  # it was gone before the kernel was told
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
