"""systemd hears that a service is ready, alive and draining; a hung one falls silent, and no child speaks for it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import roster
from shoal import service, tickets
from shoal.notify import Notifier
from tests.clusters import eventually, eventually_async
from tests.consul_server import free_port
from tests.test_fleet import Node, Scene, scene

START_SECONDS = 120.0
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Systemd:
    """What systemd is to a service: a datagram socket, and who wrote what to it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.path)
        self.writers: set[int] = set()

    def __repr__(self) -> str:
        return f"<Systemd at {self.path}>"

    def close(self) -> None:
        self._socket.close()

    def heard(self, seconds: float) -> str | None:
        """The next message, or None when there is none for so long."""
        self._socket.settimeout(seconds)
        try:
            message, ancillary, _, _ = self._socket.recvmsg(4096, 128)
        except (TimeoutError, BlockingIOError):
            return None
        self.writers.add(int.from_bytes(ancillary[0][2][:4], sys.byteorder))
        return message.decode()

    def all_heard(self) -> list[str]:
        """What was said until now."""
        found = []
        while (message := self.heard(0)) is not None:
            found.append(message)
        return found

    def hear(self, start: str) -> str:
        """Wait for a message that starts so, past others."""
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            message = self.heard(START_SECONDS)
            if message is not None and message.startswith(start):
                return message
        raise AssertionError(f"systemd never heard {start}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """pytest's own folders are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="n-") as name:
        yield Path(name)


@pytest.fixture
def systemd(folder: Path) -> Iterator[Systemd]:
    listening = Systemd(folder)
    yield listening
    listening.close()


def test_what_systemd_hears(systemd: Systemd) -> None:
    notifier = Notifier(systemd.path)
    notifier.say("loading models")
    notifier.ready("ready: lite0@1")
    notifier.draining("draining", seconds=65.5)
    assert systemd.all_heard() == [
        "STATUS=loading models",
        "READY=1\nSTATUS=ready: lite0@1",
        "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=65500000",
    ]


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0shoal-tests-{os.getpid()}")
        Notifier(f"@shoal-tests-{os.getpid()}").ready("ready")
        assert listening.recv(100).startswith(b"READY=1")


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, 0),
        ({"NOTIFY_SOCKET": "/run/x"}, 0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000"}, 3),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_what_systemd_asks_is_taken_from_the_environment(
    environ: dict[str, str], watchdog: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    wanted = Notifier(environ.get("NOTIFY_SOCKET", ""), watchdog=watchdog)
    assert repr(Notifier.from_environment()) == repr(wanted)
    assert [name for name in VARIABLES if name in os.environ] == []


def test_a_systemd_that_is_gone_is_no_error(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(folder / "gone")).ready("ready")
    assert "systemd does not hear" in caplog.text


async def test_it_is_alive_only_while_what_it_needs_holds(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    holds = True
    notifier = Notifier(systemd.path, watchdog=0.06)
    notifier.need("polls", lambda: holds)
    async with service.background(notifier.keep_telling()):
        await asyncio.sleep(0.2)
        assert set(systemd.all_heard()) == {"WATCHDOG=1"}
        holds = False
        await asyncio.sleep(0.2)
        systemd.all_heard()
        await asyncio.sleep(0.2)
        assert systemd.all_heard() == []
        assert caplog.text.count("not alive") == 1
        notifier.draining("draining", seconds=1)
        await eventually_async(lambda: _hears(systemd, "WATCHDOG=1"), within=10, what="a word while it drains")


async def _hears(systemd: Systemd, message: str) -> bool:
    return message in systemd.all_heard()


async def test_without_systemd_nobody_is_told() -> None:
    async with asyncio.timeout(5):
        await Notifier("", watchdog=0.01).keep_telling()


async def test_a_gateway_without_polls_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene() as empty:
        monkeypatch.setattr(roster, "_LATE_SECONDS", -1.0)
        assert empty.fleet.is_polling  # there is nobody to poll
    monkeypatch.undo()
    async with scene(Node("a", {})) as with_one:
        assert with_one.fleet.is_polling
        await _late(with_one, monkeypatch)


async def _late(with_one: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: roster.Roster, worker: object, line: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(roster.Roster, "_poll", never)
    monkeypatch.setattr(roster, "_LATE_SECONDS", 0.3)
    await eventually_async(lambda: _true(not with_one.fleet.is_polling), within=10, what="the lack of polls")


async def _true(value: bool) -> bool:
    return value


@contextmanager
def started(systemd: Systemd, *command: str, watchdog: float = 0.3) -> Iterator[subprocess.Popen[bytes]]:
    """A service as systemd starts it, killed at the end if it still runs."""
    environ = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": str(round(watchdog * 1e6))}
    process = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, **environ})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def silence(systemd: Systemd) -> bool:
    systemd.all_heard()
    return systemd.heard(1.5) is None


def keys(folder: Path) -> tuple[str, str]:
    private, public = folder / "ticket.key", folder / "ticket-keys.json"
    tickets.generate(private, public)
    return str(private), str(public)


@pytest.mark.cluster
def test_a_gateway_tells_systemd_and_falls_silent_when_it_hangs(systemd: Systemd, folder: Path) -> None:
    flags = ("--authentication", "off", "--ticket-key", keys(folder)[0], "--grace", "0", "--drain-timeout", "7")
    port = free_port()
    where = ("--port", str(port), "--discovery", f"file://{folder / 'members'}")
    with started(systemd, "gateway", *flags, *where) as gateway:
        assert "STATUS=ready: <Fleet 0 of 0 workers ready>" in systemd.hear("READY=1")
        socket.create_connection(("127.0.0.1", port), 5).close()
        systemd.hear("WATCHDOG=1")
        os.kill(gateway.pid, signal.SIGSTOP)
        assert silence(systemd)
        os.kill(gateway.pid, signal.SIGCONT)
        systemd.hear("WATCHDOG=1")
        gateway.terminate()
        assert systemd.hear("STOPPING=1") == "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=22000000"
        assert gateway.wait(30) == 0


@pytest.mark.cluster
def test_a_worker_tells_systemd_and_its_children_do_not(systemd: Systemd, folder: Path) -> None:
    flags = ("--models", "fake", "--ticket-keys", keys(folder)[1], "--grace", "0", "--port", "0")
    with started(systemd, "worker", *flags, "--discovery", f"file://{folder / 'members'}") as worker:
        systemd.hear("STATUS=loading models")
        assert systemd.hear("READY=1") == "READY=1\nSTATUS=ready: fake@1"
        systemd.hear("WATCHDOG=1")
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        environs = [Path(f"/proc/{child}/environ").read_bytes() for child in children]
        ours = [environ for environ in environs if b"PATH=" in environ]  # Redis writes over its own
        assert len(ours) == len(children) - 1 == 3
        assert not any(name.encode() in environ for name in VARIABLES for environ in ours)
        os.kill(worker.pid, signal.SIGSTOP)
        assert silence(systemd)
        os.kill(worker.pid, signal.SIGCONT)
        worker.terminate()
        assert "STATUS=draining" in systemd.hear("STOPPING=1")
        assert worker.wait(60) == 0
        assert systemd.writers == {worker.pid}


@pytest.mark.cluster
def test_a_cluster_on_one_machine_tells_systemd_once(systemd: Systemd) -> None:
    with started(systemd, "shoal.cli", "up", "--json", "--workers", "1", "--model", "fake") as cluster:
        systemd.hear("READY=1")
        systemd.hear("WATCHDOG=1")
        cluster.terminate()
        assert cluster.wait(60) == 0
        eventually(lambda: not systemd.all_heard(), within=5, what="the end of the words")
        assert systemd.writers == {cluster.pid}
