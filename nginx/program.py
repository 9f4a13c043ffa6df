"""nginx itself: its version, its word on a file, its reload, and its life where we start it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import signal
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from nginx.edge import Version
from nginx.rendering import TEMPORARY
from shoal.nginx_settings import NginxSettings

__all__ = ["NotDone", "Program"]

log = logging.getLogger(__name__)

_SECONDS = 30.0
_SAID = 2000  # characters of its output that are worth repeating
_VERSION = re.compile(r"nginx/(\d+)\.(\d+)\.(\d+)")
_OURS = 0o711  # nginx's processes of another user pass through it to their own
_REMEDY = "remove it, or set another `folder`"
_SBIN = "/usr/sbin"  # where distributions put it, and what is not on a user's path


class NotDone(Exception):
    """nginx, or a command about it, did not do what it was asked; the message is its own."""


class Program:
    """One nginx. Construct with ``Program.of``, which asks for its version."""

    def __init__(self, settings: NginxSettings, version: Version) -> None:
        self._settings = settings
        self.version = version
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Program nginx {_dotted(self.version)}>"

    @classmethod
    async def of(cls, settings: NginxSettings) -> Program:
        """Raises ``NotDone``."""
        said = await _run([settings.nginx, "-v"])
        found = _VERSION.search(said)
        if found is None:
            raise NotDone(f"{settings.nginx} does not say its version: {said}")
        major, minor, patch = map(int, found.groups())
        return cls(settings, (major, minor, patch))

    def require(self, version: Version, what: str) -> None:
        """Raises ``NotDone`` when this is an older one."""
        if self.version < version:
            raise NotDone(f"{what} needs nginx {_dotted(version)} or later, and this is {_dotted(self.version)}")

    async def install(self, text: str) -> None:
        """Put ``text`` into place when nginx understands it, and keep what is there when it does not.

        Raises ``NotDone`` or ``OSError``.
        """
        path = self._settings.file
        path.parent.mkdir(parents=True, exist_ok=True)
        _own(self._settings.folder)
        new = path.with_name(f"{path.name}.new")
        new.write_text(text, encoding="utf-8")
        try:
            await self.test(new)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    async def test(self, path: Path) -> None:
        """Raises ``NotDone`` with what nginx says against the file."""
        await _run([self._settings.nginx, "-e", "stderr", "-q", "-t", "-c", str(path)])

    async def reload(self) -> None:
        """Have nginx take its file again, or start it if that is ours to do. Raises ``NotDone``."""
        if self._settings.reload:
            await _run(shlex.split(self._settings.reload))
        elif self._settings.start:
            self._starting.set()
            if self._process is not None and self._process.returncode is None:
                self._process.send_signal(signal.SIGHUP)
        else:
            self._signal_its_process()

    def _signal_its_process(self) -> None:
        path = self._settings.pid_file
        try:
            pid = path.read_text(encoding="ascii").strip() if path.exists() else ""
            if pid:  # `nginx -t` leaves an empty file
                os.kill(int(pid), signal.SIGHUP)
            else:
                log.info("nginx does not run yet", extra={"pid_file": str(path)})
        except (OSError, ValueError) as error:
            raise NotDone(f"{path}: {error}") from error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the first reload on, keep nginx running, if it is ours to start; in the end it finishes what it has."""
        if not self._settings.start:
            yield
            return
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await self._quit()

    async def _keep(self) -> None:
        await self._starting.wait()
        while True:
            command = [self._settings.nginx, "-e", "stderr", "-c", str(self._settings.file), "-g", "daemon off;"]
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command, env=_environ(), stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:  # it is just being upgraded
                log.error("nginx cannot be started; it is tried again", extra={"error": str(error)})
            else:
                log.info("nginx started", extra={"pid": self._process.pid})
                code = await self._process.wait()
                log.error("nginx ended; it is started again", extra={"code": code})
            await asyncio.sleep(1)

    async def _quit(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGQUIT)
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                await self._process.wait()
        except TimeoutError:
            self._process.terminate()
            await self._process.wait()


def _own(folder: Path) -> None:
    """Make the folder of the bodies, or take it as ours. Raises ``NotDone`` when somebody else may have prepared it.

    It may lie where everybody can make files, and nginx may write there as root.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(_OURS)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotDone(f"{folder} is a link, or no folder: {_REMEDY}")
    if found.st_uid != os.geteuid():
        raise NotDone(f"{folder} belongs to the user with the number {found.st_uid}, and not to us: {_REMEDY}")
    if found.st_mode & stat.S_IWOTH:
        raise NotDone(f"{folder} can be written by everybody: {_REMEDY}")
    for name in TEMPORARY:
        if (folder / name).is_symlink():
            raise NotDone(f"{folder / name} is a link: {_REMEDY}")
    folder.chmod(_OURS)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _environ() -> dict[str, str]:
    return os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"}


async def _run(command: Sequence[str]) -> str:
    """What a command says. Raises ``NotDone``."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=_environ(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise NotDone(f"{command[0]}: {error}") from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        raise NotDone(f"{shlex.join(command)}: no end within {_SECONDS:g} s") from None
    said = output.decode(errors="replace").strip()[-_SAID:]
    if process.returncode:
        raise NotDone(f"{shlex.join(command)}: {said or f'exit code {process.returncode}'}")
    return said
