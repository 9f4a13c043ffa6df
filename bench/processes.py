"""The process trees that the bench starts: told apart, paused while others are measured, and always ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench import measure

_STOP_SECONDS = 10.0
_KILL_SECONDS = 5.0
_POLL = 0.1


class NotMeasured(Exception):
    """A contestant that cannot be measured; the message is the reason for people."""


class Failed(NotMeasured):
    """A contestant that answered wrongly or ended while it was measured: the run is a failure."""


class Tree:
    """One started command and everything below it, in a session of its own."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, name: str, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Tree:
        """Its errors go to a log in ``folder``, where its temporary files go too."""
        scratch = folder / name
        scratch.mkdir()
        log = folder / f"{name}.log"
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch)}
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **quiet, **environ},
                start_new_session=True,
                limit=1 << 24,
            )
        return cls(name, process, log)

    @classmethod
    async def of_module(cls, module: str, arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> Tree:
        name = module.rpartition(".")[2]
        return await cls.start(name, [sys.executable, "-m", module, *arguments], environ, folder)

    @property
    def roots(self) -> tuple[int, ...]:
        return (self._process.pid,)

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def line(self, seconds: float) -> bytes:
        """The next line of its output. Raises ``NotMeasured`` when there is none in time."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise NotMeasured(f"no answer within {seconds:g} s{self.last_words()}") from None
        if not line:
            raise NotMeasured(f"ended{self.last_words()}")
        return line

    async def tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()

    async def swallow_output(self) -> None:
        """Read what it prints, so that a full pipe never blocks it. Runs until it ends."""
        assert self._process.stdout is not None
        while await self._process.stdout.read(1 << 16):
            pass

    def last_words(self) -> str:
        """The last line of its log, as the end of a sentence."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].strip()[:300]}" if lines else ""

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """SIGTERM to the root, then SIGKILL to whoever of its tree is left."""
        members = measure.tree(self.roots)
        self.resume()
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._wait_for_end(members, _STOP_SECONDS)
        for process in measure.alive(members):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        await self._wait_for_end(members, _KILL_SECONDS)
        await self._process.wait()

    async def _wait_for_end(self, members: list[measure.Process], seconds: float) -> None:
        for _ in range(round(seconds / _POLL)):
            if not measure.alive(members):
                return
            await asyncio.sleep(_POLL)

    def _signal(self, number: signal.Signals) -> None:
        for process in measure.tree(self.roots):
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
