"""One booted host: a systemd-nspawn machine over its own overlay of the root."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from chaos.network import Host
from rehearsal.apt_proxy import PORT
from rehearsal.namespaces import tcp_socket
from rehearsal.place import Place

_CGROUPS = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")  # legacy, hybrid; or else unified alone
_JOIN = 'for group; do [ "$group" = -- ] && break; echo 0 > "$group/cgroup.procs"; shift; done; shift; exec "$@"'
_POWER_OFF = signal.SIGRTMIN + 4  # systemd(1)
_BOOT_SECONDS = 60.0
_STOP_SECONDS = 30.0
_PAUSE = 0.1


class Machine:
    """Construct, then ``create`` its disk and ``start`` it."""

    def __init__(self, place: Place, host: Host, *, proxy: str) -> None:
        self.host = host
        self.folder = place.machine(host.name)
        self._place = place
        self._proxy = proxy
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"<Machine {self.host.name} {'running' if self.is_running else 'off'}>"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def create(self) -> None:
        """A bare disk, with what an installer would have asked for: name, SSH key, where packages come from."""
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        layers = f"lowerdir={self._place.root},upperdir={self.folder}/upper,workdir={self.folder}/work"
        _run("mount", "-t", "overlay", "overlay", "-o", layers, str(self._root))
        _run("systemd-machine-id-setup", f"--root={self._root}")
        self._write("etc/hostname", f"{self.host.name}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.host.name}\n")
        self._write("etc/apt/apt.conf.d/90proxy", f'Acquire::http::Proxy "http://{self._proxy}:{PORT}";\n')
        self._write("root/.ssh/authorized_keys", self._place.key.with_suffix(".pub").read_text(encoding="utf-8"))
        (self._root / "root/.ssh").chmod(0o700)

    def destroy(self) -> None:
        """Lose the disk; the machine must be off."""
        _run("umount", str(self._root))
        shutil.rmtree(self.folder)

    async def start(self) -> None:
        """Boot, and wait until sshd answers. Raises ``TimeoutError``."""
        command = [
            *("systemd-nspawn", "--quiet", f"--directory={self._root}", f"--machine={self.host.name}"),
            *("--register=no", "--keep-unit", "--resolv-conf=off", "--boot"),
            f"--network-namespace-path=/proc/{self.host.holder}/ns/net",
        ]
        with (self.folder / "console.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("sh", "-c", _JOIN, "sh", *self._groups(), "--", *command),
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                env=os.environ | {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},  # so that sysctl can set net.*
                start_new_session=True,
            )
        async with asyncio.timeout(_BOOT_SECONDS):
            while not await self._answers():  # noqa: ASYNC110  sshd tells nobody
                await asyncio.sleep(_PAUSE)

    async def crash(self) -> None:
        """Pull the plug: everything in it is gone at once."""
        self._signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """Shut down in order, or be cut off."""
        self._signal(_POWER_OFF)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._ended()
        except TimeoutError:
            await self.crash()

    async def _answers(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"{self.host.name} ended while booting: see {self.folder}/console.log")
        loop, made = asyncio.get_running_loop(), tcp_socket(self.host.holder)
        with made, suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await loop.sock_connect(made, (self.host.address("internal"), 22))
                return (await loop.sock_recv(made, 64)).startswith(b"SSH-")
        return False

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.wait()

    def _signal(self, number: int) -> None:
        """To the machine's first process. Killing nspawn instead would leave the machine running."""
        if self._process is None or not self.is_running:
            return
        pid = self._process.pid
        for first in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            with suppress(ProcessLookupError):
                os.kill(int(first), number)

    def _groups(self) -> list[str]:
        """A control group of its own in each hierarchy that systemd uses."""
        above = [Path(group) for group in _CGROUPS if Path(group).is_dir()] or [Path("/sys/fs/cgroup")]
        made = [group / f"shoal-rehearsal-{self._place.name}" / self.host.name for group in above]
        for group in made:
            group.mkdir(parents=True, exist_ok=True)
        return [str(group) for group in made]

    @property
    def _root(self) -> Path:
        return self.folder / "root"

    def _write(self, path: str, text: str) -> None:
        file = self._root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def are_empty(name: str) -> bool:
    """Whether no process is left in the control groups of a lab."""
    return not any((group / "cgroup.procs").read_text(encoding="ascii") for group in _groups(name))


def remove_groups(name: str) -> None:
    """Remove the control groups of a lab whose processes have ended."""
    for group in _groups(name):
        group.rmdir()


def _groups(name: str) -> Iterator[Path]:
    """In every hierarchy, the innermost first."""
    for above in (*_CGROUPS, "/sys/fs/cgroup"):
        ours = Path(above) / f"shoal-rehearsal-{name}"
        if ours.is_dir():
            yield from sorted((path for path in ours.rglob("*") if path.is_dir()), reverse=True)
            yield ours


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
