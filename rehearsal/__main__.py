"""``python -m rehearsal``: a fleet of booted hosts on this machine, and what is rehearsed on it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import rehearsal
from rehearsal import run
from rehearsal.control import NoLab, OrderFailed, ask, enter_network
from rehearsal.fleet import LabFailed, down, missing, up
from rehearsal.inventory import LAYOUT, parse
from rehearsal.place import FOLDER, Place, check_name
from rehearsal.playbooks import PlaybookFailed

_ORDERS: Mapping[str, str] = {
    "status": "say which hosts run",
    "crash": "pull the plug of these hosts",
    "start": "boot these hosts again",
    "stop": "shut these hosts down in order",
    "wipe": "crash these hosts, and boot them bare",
    "cut": "pull the internal network cable of these hosts",
    "mend": "plug it in again",
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rehearsal", description=rehearsal.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", type=check_name, default="lab", help="of the lab (lab)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where labs keep their files ({FOLDER})")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    standard = " ".join(f"{host}:{','.join(groups)}" for host, groups in LAYOUT.items())
    boot = verbs.add_parser("up", help="boot the hosts, bare")
    boot.add_argument("hosts", nargs="*", metavar="HOST:GROUP,GROUP", help=f"names and inventory groups ({standard})")
    verbs.add_parser("down", help="shut the hosts down, and forget them")
    inside = verbs.add_parser("exec", help="run a command in the lab's network, where alone the hosts are reached")
    inside.add_argument("command", nargs="+", metavar="COMMAND")
    run.add_options(verbs.add_parser("run", help="a lab from nothing, every scenario on it, and nothing left of it"))
    for order, what in _ORDERS.items():
        verbs.add_parser(order, help=what).add_argument("hosts", nargs="*", metavar="HOST")
    return parser.parse_args()


def _up(options: argparse.Namespace, place: Place) -> None:
    if reason := missing():
        raise LabFailed(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises, so that nothing is left
    up(place, parse(options.hosts) if options.hosts else LAYOUT)
    sys.stdout.write(f"{place.inventory}\n")


def _run(options: argparse.Namespace, place: Place) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not run.run(options, place):
        raise SystemExit(1)


def _down(_: argparse.Namespace, place: Place) -> None:
    down(place)


def _exec(options: argparse.Namespace, place: Place) -> None:
    enter_network(place)
    os.execvp(options.command[0], options.command)  # noqa: S606


def _order(options: argparse.Namespace, place: Place) -> None:
    sys.stdout.write(f"running: {' '.join(ask(place, options.verb, *options.hosts)['running'])}\n")


_VERBS: Mapping[str, Callable[[argparse.Namespace, Place], None]] = {
    "up": _up,
    "down": _down,
    "exec": _exec,
    "run": _run,
}


def main() -> int:
    options = _options()
    try:
        _VERBS.get(options.verb, _order)(options, Place(options.folder, options.name))
    except (LabFailed, NoLab, OrderFailed, PlaybookFailed, ValueError) as error:
        sys.stderr.write(f"rehearsal: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
