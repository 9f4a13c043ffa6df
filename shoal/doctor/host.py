"""This machine, only looked at: files under a root, and programs that answer within a time."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_LAST_SECONDS = 2.0
_ADJTIMEX_BYTES = 512  # more than struct timex has
_STATUS_OFFSET = 40  # of its field ``status``, on 64-bit machines
_UNSYNCHRONISED = 0x40  # STA_UNSYNC, sys/timex.h


@dataclass(frozen=True)
class Ran:
    """A program that ended."""

    code: int
    output: str
    complaint: str


@dataclass(frozen=True)
class Host:
    """``root`` is where /proc, /sys and /dev are; ``environ`` is what programs get, their PATH too."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """The file without white space around it, or None when it cannot be read."""
        try:
            return self.path(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The number that the file holds, or None."""
        text = self.text(path)
        return int(text) if text is not None and text.isdecimal() else None

    def program(self, name: str) -> str | None:
        return shutil.which(name, path=self.environ.get("PATH", os.defpath))

    def is_clock_synchronised(self) -> bool:
        """What the kernel knows of it, by adjtimex(2); whoever steers the clock tells it."""
        timex = ctypes.create_string_buffer(_ADJTIMEX_BYTES)  # its first field, modes, is 0: nothing is set
        ctypes.CDLL(None).adjtimex(timex)
        status: int = struct.unpack_from("i", timex, _STATUS_OFFSET)[0]
        return not status & _UNSYNCHRONISED

    async def run(self, *command: str, orders: str = "", environ: Mapping[str, str] | None = None) -> Ran | None:
        """Run a program with ``orders`` on its standard input; None when there is no such program.

        Who stops waiting, as at the end of its time, ends the program and its children.
        """
        program = self.program(command[0])
        if program is None:
            return None
        process = await asyncio.create_subprocess_exec(
            program,
            *command[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.environ, **(environ or {})},
            start_new_session=True,
        )
        try:
            output, complaint = await process.communicate(orders.encode())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(TimeoutError):  # somebody else may hold its output
                async with asyncio.timeout(_LAST_SECONDS):
                    await process.communicate()
        return Ran(process.returncode or 0, output.decode(errors="replace"), complaint.decode(errors="replace"))
