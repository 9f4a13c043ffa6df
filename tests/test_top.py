"""``shoal top``: what it draws in the room there is, and how it behaves on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.http import dumps
from shoal.top import draw
from tests.clusters import eventually

LOAD = {
    "status": "ready",
    "queue_depth": 3,
    "capacity": 512,
    "seconds_per_image": 0.0119,
    "images_per_second": 12.1,
    "utilisation": 0.71,
    "expected_wait": 0.036,
    "seconds_per_answer": 0.052,
    "reason": "",
}
DOCUMENT: dict[str, Any] = {
    "gateway": "g1",
    "version": "0.5.0",
    "workers": [
        {"name": "w1", "state": "ready", "zone": "a", "version": "0.5.0", "models": {"lite0@1": LOAD, "lite0@2": LOAD}},
        {"name": "w2", "state": "draining", "zone": "b", "version": "0.5.0", "models": {"lite0@1": LOAD}},
        {"name": "w3", "state": "unreachable", "zone": None, "version": "", "models": {}},
    ],
    "models": {"lite0": {"versions": ["1", "2"], "labels": {"stable": "1"}, "traffic": {"1": 9.0, "2": 1.0}}},
    "refusals_per_second": {"lite0": 0.25},
}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_everything_where_there_is_room() -> None:
    assert draw(DOCUMENT, 200) == [
        "g1 0.5.0   3 workers: 1 draining, 1 ready, 1 unreachable",
        "36.3 images/s   9 waiting   0.2 refused/s",
        "",
        "WORKER  STATE        MODEL    STATUS  QUEUE  WAIT MS  IMAGES/S  BUSY  MS/IMAGE  ANSWER  ZONE  VERSION  REASON",
        "w1      ready        lite0@1  ready   3/512       36      12.1   71%      11.9      52  a     0.5.0",
        "w1      ready        lite0@2  ready   3/512       36      12.1   71%      11.9      52  a     0.5.0",
        "w2      draining     lite0@1  ready   3/512       36      12.1   71%      11.9      52  b     0.5.0",
        "w3      unreachable  -        -         0/0        0       0.0    0%       0.0       0",
        "",
        "MODEL  VERSIONS  READY  QUEUE  WAIT MS  IMAGES/S  REFUSED/S  LABELS    TRAFFIC",
        "lite0  1,2           3      9       36      36.3        0.2  stable=1  1:9 2:1",
    ]


@pytest.mark.parametrize(
    ("width", "heading"),
    [
        (90, "WORKER  STATE        MODEL    STATUS  QUEUE  WAIT MS  IMAGES/S  BUSY  ANSWER  REASON"),
        (60, "WORKER  STATE        MODEL    STATUS  QUEUE  WAIT MS"),
        (30, "WORKER  STATE        MODEL"),
        (12, "WORKER"),
        (4, "WORK"),
    ],
)
def test_the_least_important_goes_first(width: int, heading: str) -> None:
    assert heading in draw(DOCUMENT, width)


@given(width=st.integers(1, 250), height=st.integers(1, 30), colours=st.booleans(), note=st.text(max_size=300))
def test_nothing_is_wider_or_higher_than_the_terminal(width: int, height: int, colours: bool, note: str) -> None:
    lines = draw(DOCUMENT, width, height, colours=colours, note=note)
    assert len(lines) <= height
    assert all(len(ESCAPES.sub("", line)) <= width for line in lines)


def test_what_is_left_out_is_counted() -> None:
    assert draw(DOCUMENT, 80, 5)[-1] == "… 7 more lines"


def test_colours_say_how_a_worker_is() -> None:
    lines = draw(DOCUMENT, 200, colours=True)
    assert [line[:5] for line in lines if "w1" in line or "w2" in line or "w3" in line] == [
        "\x1b[32m",
        "\x1b[32m",
        "\x1b[33m",
        "\x1b[31m",
    ]
    assert "\x1b" not in "".join(draw(DOCUMENT, 200))


def test_what_others_wrote_moves_no_cursor() -> None:
    failed = {**LOAD, "status": "failed", "reason": "\x1b[2J\r\nno such file"}
    document = {**DOCUMENT, "workers": [{**DOCUMENT["workers"][0], "name": "w\x1b[1A", "models": {"a@1\x07": failed}}]}
    assert all(character.isprintable() for line in draw(document, 200) for character in line)


def test_no_gateway_yet_and_an_empty_cluster() -> None:
    assert draw({}, 80, note="no gateway has answered") == ["no gateway has answered"]
    empty = {"gateway": "g", "version": "1", "workers": [], "models": {}}
    assert draw(empty, 80)[:2] == ["g 1   0 workers", "0.0 images/s   0 waiting   0.0 refused/s"]


@dataclass
class Gateway:
    """Answers ``/status``, with ``status`` when it is not 200."""

    status: int = 200
    asked: int = 0
    url: str = ""
    keys: set[str | None] = field(default_factory=set)


@contextmanager
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            state.keys.add(self.headers["Authorization"])
            error = {"error": {"code": "invalid_key" if state.status == 401 else "unavailable", "message": "m"}}
            body = dumps(DOCUMENT if state.status == 200 else error).encode()
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Terminal:
    """``shoal top`` on a terminal of its own."""

    def __init__(self, url: str, *arguments: str, **environ: str) -> None:
        self._own, other = pty.openpty()
        self.resize(120, 30)
        command = [sys.executable, "-m", "shoal.cli", "top", "--gateway", url, "--api-key", "k", *arguments]
        settings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env={**settings, "TERM": "xterm", **environ}
        )
        os.close(other)
        self.written = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, text: str) -> None:
        """Read until ``text`` was written."""
        deadline = time.monotonic() + 20
        while text not in self.written:
            assert time.monotonic() < deadline, self.written[-2000:]
            if select.select([self._own], [], [], 0.1)[0]:
                self._read()

    def _read(self) -> bool:
        try:
            data = os.read(self._own, 65536)
        except OSError:  # the other side is closed
            return False
        self.written += data.decode()
        return bool(data)

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._own)
        return self.process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_lives_until_it_is_ended(number: signal.Signals) -> None:
    with gateway() as g:
        terminal = Terminal(g.url, "--interval", "0.2")
        terminal.until("lite0@2")
        eventually(lambda: g.asked > 2, within=20, what="it asks again")
        g.status = 503
        terminal.until("no gateway has answered for")
        assert g.keys == {"Bearer k"}
        terminal.resize(20, 6)
        terminal.until("more lines")
        terminal.process.send_signal(number)
        assert terminal.end() == 0
    assert terminal.written.startswith("\x1b[?1049h\x1b[?25l")
    assert terminal.written.endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in terminal.written


def test_a_window_of_another_size_is_drawn_at_once() -> None:
    with gateway() as g:
        terminal = Terminal(g.url, "--interval", "3600")
        terminal.until("stable=1")
        terminal.resize(40, 6)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.until("more lines")
        assert g.asked == 1
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0


def test_a_key_that_is_not_known_ends_it_with_the_terminal_restored() -> None:
    with gateway() as g:
        g.status = 401
        terminal = Terminal(g.url)
        assert terminal.end() == 1
    assert "shoal: invalid_key: m" in terminal.written
    assert "\x1b[?25h\x1b[?1049l" in terminal.written


def test_without_colours() -> None:
    with gateway() as g:
        terminal = Terminal(g.url, "--once", NO_COLOR="1")
        assert terminal.end() == 0
        assert "\x1b" not in terminal.written
        assert "\x1b[32m" in _once_with_colours(g.url)


def _once_with_colours(url: str) -> str:
    terminal = Terminal(url, "--once")
    assert terminal.end() == 0
    return terminal.written


def test_a_file_gets_it_once_and_whole() -> None:
    with gateway() as g:
        command = [sys.executable, "-m", "shoal.cli", "top", "--gateway", g.url]
        settings = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, env=settings, check=True)
    assert ran.stdout.splitlines() == draw(DOCUMENT, 1000)


def test_nobody_there_is_an_error_once() -> None:
    command = [sys.executable, "-m", "shoal.cli", "top", "--once", "--gateway", "http://127.0.0.1:1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "connection_failed" in ran.stderr


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_an_interval_is_a_time(text: str) -> None:
    command = [sys.executable, "-m", "shoal.cli", "top", "--interval", text]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, "number of seconds" in ran.stderr) == (2, True)
