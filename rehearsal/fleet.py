"""A lab goes up and down: the keeper is started and ended here, and what is left of a dead one is removed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from chaos.network import missing as no_network
from rehearsal.control import NoLab, ask
from rehearsal.machine import are_empty, remove_groups
from rehearsal.place import Place
from rehearsal.root import prepare

_PROGRAMS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ssh-keygen": "openssh-client"}
# All below the keeper ends with it, and what it mounts is seen by nobody else.
_ENCLOSED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_UP_SECONDS = 120.0
_DOWN_SECONDS = 60.0
_PAUSE = 0.1


class LabFailed(Exception):
    """The lab does not come up, or not down, and why."""


def missing() -> str | None:
    """Why there can be no lab here, or None."""
    if os.geteuid() != 0:
        return "only root can boot hosts"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"there is no {program} (package {package})"
    return no_network()


def up(place: Place, layout: Mapping[str, Sequence[str]]) -> None:
    """Boot the hosts, bare. Returns when sshd answers on each. Raises ``LabFailed``, and then nothing is left."""
    if place.lab.exists():
        raise LabFailed(f"{place.lab} exists: `down` ends that lab, or removes what is left of it")
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepare(place)
    place.lab.mkdir(mode=0o700, parents=True)
    try:
        keygen = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", str(place.key))
        subprocess.run(keygen, check=True, capture_output=True)
        _start(place, layout)
    except BaseException as error:
        said = place.log.read_text(encoding="utf-8")[-2000:] if place.log.exists() else ""
        _until_silent(place)  # what was below a killed keeper ends after it
        _remove(place)
        if isinstance(error, LabFailed):
            raise LabFailed(f"{error}: {said}") from None
        raise


def down(place: Place) -> None:
    """Shut the hosts down, and forget them. Without a lab there it does nothing. Raises ``LabFailed``."""
    try:
        ask(place, "down")
    except NoLab:
        if place.lab.exists() and _is_alive(place):
            raise LabFailed(f"something still runs in {place.lab}") from None
    else:
        _until_silent(place)
    _remove(place)


def _start(place: Place, layout: Mapping[str, Sequence[str]]) -> None:
    orders = {"folder": str(place.folder), "name": place.name, "layout": layout}
    with place.log.open("wb") as log:
        fcntl.flock(log, fcntl.LOCK_EX)  # whoever has inherited it holds it: see _is_alive
        keeper = subprocess.Popen(
            [*_ENCLOSED, sys.executable, "-m", "rehearsal.keeper"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert keeper.stdin is not None
        with keeper.stdin:
            keeper.stdin.write(json.dumps(orders).encode() + b"\n")
        _until_up(place, keeper)
    except BaseException:
        keeper.kill()
        keeper.wait()
        raise


def _until_up(place: Place, keeper: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _UP_SECONDS
    while time.monotonic() < end:
        if keeper.poll() is not None:
            raise LabFailed("the keeper ended")
        try:
            ask(place, "status")
        except NoLab:
            time.sleep(_PAUSE)
        else:
            return
    raise LabFailed(f"the hosts did not boot in {_UP_SECONDS:g} s")


def _until_silent(place: Place) -> None:
    end = time.monotonic() + _DOWN_SECONDS
    while time.monotonic() < end:
        if not _is_alive(place) and are_empty(place.name):
            return
        time.sleep(_PAUSE)
    raise LabFailed(f"lab {place.name} did not end in {_DOWN_SECONDS:g} s: see {place.log}")


def _is_alive(place: Place) -> bool:
    """Whether the keeper still is, and so what is below it: it holds a lock on its log as long as it runs."""
    if not place.log.exists():
        return False
    with place.log.open("rb") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove(place: Place) -> None:
    remove_groups(place.name)
    shutil.rmtree(place.lab, ignore_errors=True)
