"""What a gateway knows of its cluster, on a terminal: ``shoal status``, and ``shoal top``, which stays up to date.

Only the standard library and the client are needed. Drawing is a function of the gateway's answer and the terminal's
size; what does not fit is left out, the least important columns first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from shoal.client import AsyncClient
from shoal.errors import ShoalError

_LEAST_INTERVAL = 0.2
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_GREEN, _YELLOW, _RED, _BOLD, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[1m", "\x1b[0m"
_COLOURS = {"ready": _GREEN, "failed": _RED, "unreachable": _RED, "silent": _RED, "ejected": _RED}
_WIDTH_OF_A_FILE = 1000


def add_commands(commands: Any, client_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the ``add_subparsers`` of the command line."""
    status = commands.add_parser("status", help="show the workers, their models and their load")
    client_options(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(command=lambda options: asyncio.run(_status(options)))
    top = commands.add_parser("top", help="show the cluster as it works, until Ctrl-C")
    client_options(top)
    top.add_argument("--once", action="store_true", help="print it once, as where the output is not a terminal")
    top.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="default: 1")
    top.set_defaults(command=_until_ended)


def _until_ended(options: argparse.Namespace) -> int:
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_top(options))
    return 0


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_INTERVAL <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {_LEAST_INTERVAL:g} to 3600")
    return seconds


def _client(options: argparse.Namespace, timeout: float) -> AsyncClient:
    return AsyncClient(options.gateway, api_key=options.api_key, timeout=timeout, ca=options.ca)


async def _status(options: argparse.Namespace) -> int:
    async with _client(options, 10) as client:
        document = await client.status()
    if options.json:
        sys.stdout.write(json.dumps(document) + "\n")
        return 0
    sys.stdout.write(f"{document['gateway']} {document['version']}: {len(document['workers'])} workers\n")
    row = "{:<16} {:<12} {:<24} {:<10} {:>6} {:>9} {:>9}\n"
    sys.stdout.write(row.format("WORKER", "STATE", "MODEL", "STATUS", "QUEUE", "CAPACITY", "MS/IMAGE"))
    for worker, key, load in _loads(document):
        about = (worker["name"], worker["state"], key, load.get("status", "-"))
        cost = f"{1000 * load.get('seconds_per_image', 0.0):.1f}"
        sys.stdout.write(row.format(*about, load.get("queue_depth", 0), load.get("capacity", 0), cost))
    return 0


async def _top(options: argparse.Namespace) -> None:
    has_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    async with _client(options, 3) as client:
        if options.once or not sys.stdout.isatty():
            lines = draw(await client.status(), _width(), colours=has_colours)
            sys.stdout.write("\n".join(lines) + "\n")
        else:
            await _follow(client, options.interval, sys.stdout, has_colours)


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE


async def _follow(client: AsyncClient, interval: float, out: TextIO, colours: bool) -> None:
    """Draw again and again, and at once when the window changes. Raises what asking again cannot heal."""
    document: dict[str, Any] = {}
    heard = time.monotonic()
    with _resizing() as resized, _screen(out):
        while True:
            until, note = time.monotonic() + interval, ""
            try:
                document = await client.status()
                heard = time.monotonic()
            except (ShoalError, TimeoutError) as error:
                if isinstance(error, ShoalError) and not error.retryable:
                    raise
                note = f"no gateway has answered for {time.monotonic() - heard:.0f} s: {error}"
            while True:
                _show(draw(document, *_size(), colours=colours, note=note), out)
                resized.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                        await resized.wait()
                        continue
                break


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return size.columns - 1, size.lines


def _show(lines: Sequence[str], out: TextIO) -> None:
    out.write(_HOME + "\r\n".join(_END_OF_LINE + line for line in lines) + _END_OF_SCREEN)
    out.flush()


@contextmanager
def _resizing() -> Iterator[asyncio.Event]:
    """What happens when the window changes its size. Whoever ends us has the terminal restored first."""
    loop, resized, task = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield resized
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        loop.remove_signal_handler(signal.SIGTERM)


@contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    """The terminal's other screen, without a cursor; the first comes back as it was."""
    out.write(_ENTER)
    try:
        yield
    finally:
        with suppress(OSError):
            out.write(_LEAVE)
            out.flush()


# Drawing


@dataclass(frozen=True)
class _Column:
    """``rank`` is how important it is: the highest goes first where there is no room."""

    title: str
    rank: int = 0
    is_number: bool = False


@dataclass
class _Table:
    columns: Sequence[_Column]
    rows: list[Sequence[str]] = field(default_factory=list)

    def lines(self, width: int, colours: bool) -> list[str]:
        """Its heading and its rows, no wider than ``width``."""
        widths = [max(len(row[n]) for row in [self._titles, *self.rows]) for n in range(len(self.columns))]
        shown = list(range(len(self.columns)))
        while len(shown) > 1 and sum(widths[n] for n in shown) + 2 * (len(shown) - 1) > width:
            shown.remove(max(shown, key=lambda n: (self.columns[n].rank, n)))
        heading, *rows = [self._line(row, shown, widths)[:width] for row in [self._titles, *self.rows]]
        if not colours:
            return [heading, *rows]
        return [f"{_BOLD}{heading}{_PLAIN}", *(_coloured(line, row) for line, row in zip(rows, self.rows, strict=True))]

    @property
    def _titles(self) -> list[str]:
        return [column.title for column in self.columns]

    def _line(self, row: Sequence[str], shown: Sequence[int], widths: Sequence[int]) -> str:
        cells = [row[n].rjust(widths[n]) if self.columns[n].is_number else row[n].ljust(widths[n]) for n in shown]
        return "  ".join(cells).rstrip()


def _coloured(line: str, row: Sequence[str]) -> str:
    """A worker that is well is green, one that is not is red, and what passes is yellow."""
    if len(row) < 4 or row[1] == "":
        return line
    colours = [_COLOURS.get(said, _YELLOW) for said in (row[1], row[3])]
    worst = next((colour for colour in (_RED, _YELLOW) if colour in colours), _GREEN)
    return f"{worst}{line}{_PLAIN}"


def draw(
    document: Mapping[str, Any], width: int, height: int = 0, *, colours: bool = False, note: str = ""
) -> list[str]:
    """The gateway's answer to ``/status`` as lines of at most ``width`` characters, and ``height`` of them if given."""
    lines = [_printable(note)[:width]] if note else []
    if document:
        lines += [line[:width] for line in _heading(document)]
        lines += ["", *_workers(document).lines(width, colours)]
        lines += ["", *_models(document).lines(width, colours)]
    if height and len(lines) > height:
        lines = [*lines[: height - 1], f"… {len(lines) - height + 1} more lines"[:width]]
    return lines


def _heading(document: Mapping[str, Any]) -> list[str]:
    states = [str(worker["state"]) for worker in document["workers"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    loads = [load for _, key, load in _loads(document) if load]
    refused = sum(document.get("refusals_per_second", {}).values())
    elsewhere = document.get("elsewhere", 0)
    return [
        f"{_printable(document['gateway'])} {_printable(document['version'])}   {len(states)} workers"
        + (f": {counted}" if states else "")
        + (f"   {elsewhere} elsewhere" if elsewhere else ""),
        f"{_sum(loads, 'images_per_second'):.1f} images/s   {_sum(loads, 'queue_depth'):.0f} waiting   "
        f"{refused:.1f} refused/s",
    ]


def _workers(document: Mapping[str, Any]) -> _Table:
    table = _Table(
        (
            _Column("WORKER"),
            _Column("STATE", 1),
            _Column("MODEL", 1),
            _Column("STATUS", 2),
            _Column("QUEUE", 2, is_number=True),
            _Column("WAIT MS", 3, is_number=True),
            _Column("IMAGES/S", 3, is_number=True),
            _Column("BUSY", 4, is_number=True),
            _Column("MS/IMAGE", 7, is_number=True),
            _Column("ANSWER", 6, is_number=True),
            _Column("ZONE", 9),
            _Column("VERSION", 8),
            _Column("REASON", 5),
        )
    )
    for worker, key, load in _loads(document):
        table.rows.append(
            [
                _printable(worker["name"]),
                _printable(worker["state"]),
                _printable(key),
                _printable(load.get("status", "-")),
                f"{load.get('queue_depth', 0)}/{load.get('capacity', 0)}",
                f"{1000 * load.get('expected_wait', 0.0):.0f}",
                f"{load.get('images_per_second', 0.0):.1f}",
                f"{100 * load.get('utilisation', 0.0):.0f}%",
                f"{1000 * load.get('seconds_per_image', 0.0):.1f}",
                f"{1000 * load.get('seconds_per_answer', 0.0):.0f}",
                _printable(worker.get("zone") or ""),
                _printable(worker.get("version") or ""),
                _printable(load.get("reason", ""))[:60],
            ]
        )
    return table


def _models(document: Mapping[str, Any]) -> _Table:
    published: Mapping[str, Any] = document.get("models", {})
    loads = [(key.rpartition("@"), load) for _, key, load in _loads(document) if load]
    refused = document.get("refusals_per_second", {})
    table = _Table(
        (
            _Column("MODEL"),
            _Column("VERSIONS", 1),
            _Column("READY", 1, is_number=True),
            _Column("QUEUE", 2, is_number=True),
            _Column("WAIT MS", 3, is_number=True),
            _Column("IMAGES/S", 2, is_number=True),
            _Column("REFUSED/S", 3, is_number=True),
            _Column("LABELS", 4),
            _Column("TRAFFIC", 5),
        )
    )
    for model in sorted({*published, *(name for (name, _, _), _ in loads)}):
        own = [load for (name, _, _), load in loads if name == model]
        ready = [load for load in own if load["status"] == "ready"]
        about = published.get(model, {})
        versions = about.get("versions") or sorted({version for (name, _, version), _ in loads if name == model})
        table.rows.append(
            [
                _printable(model),
                _printable(",".join(versions)),
                str(len(ready)),
                f"{_sum(own, 'queue_depth'):.0f}",
                f"{1000 * _wait(document, model):.0f}",
                f"{_sum(own, 'images_per_second'):.1f}",
                f"{refused.get(model, 0.0):.1f}",
                _printable(" ".join(f"{label}={version}" for label, version in about.get("labels", {}).items())),
                _printable(" ".join(f"{name}:{weight:g}" for name, weight in about.get("traffic", {}).items())),
            ]
        )
    return table


def _loads(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    """Every worker with each of its model versions; one that has none is there once."""
    for worker in document["workers"]:
        models: Mapping[str, Any] = worker["models"] or {"-": {}}
        for key, load in models.items():
            yield worker, key, load


def _wait(document: Mapping[str, Any], model: str) -> float:
    """Where an image waits least; on each worker, for the version that waits longest."""
    longest: dict[str, float] = {}
    for worker, key, load in _loads(document):
        if key.rpartition("@")[0] == model and load["status"] == "ready":
            longest[worker["name"]] = max(longest.get(worker["name"], 0.0), load.get("expected_wait", 0.0))
    return min(longest.values(), default=0.0)


def _sum(loads: Iterable[Mapping[str, Any]], name: str) -> float:
    return sum(float(load.get(name, 0)) for load in loads)


def _printable(text: object) -> str:
    """A name as a terminal may have it: what others wrote moves no cursor."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
