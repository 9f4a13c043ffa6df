"""The bare Debian that every host starts as: built once with debootstrap, then only read."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rehearsal.place import Place

SUITE = "bookworm"
# What every cloud's Debian image has, and the minimal one lacks.
INCLUDED = ("ca-certificates", "dbus", "iproute2", "openssh-server", "python3", "python3-apt", "sudo", "systemd-sysv")
_BUILD_SECONDS = 900


def prepare(place: Place) -> None:
    """Build the root if there is none yet, which takes a minute or two. Raises ``CalledProcessError``."""
    with _locked(place.folder / "root.lock"):
        if place.root.exists():
            return
        building = place.folder / "root.building"
        shutil.rmtree(building, ignore_errors=True)
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(INCLUDED)}",
            SUITE,
            str(building),
            mirror(),
        ]
        with (place.folder / "root.log").open("wb") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=_BUILD_SECONDS)
        _finish(building)
        building.rename(place.root)


def mirror() -> str:
    """The Debian mirror that apt uses on this machine. Raises ``LookupError`` when it uses none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(CREATED_BY)"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        address, *source = line.split("|")
        if source == ["Debian", "Debian", "Packages"]:
            return address
    raise LookupError("apt on this machine has no list of Debian's main archive: run `apt-get update`")


def _finish(root: Path) -> None:
    (root / "etc/dpkg/dpkg.cfg.d/rehearsal").write_text("force-unsafe-io\n", encoding="utf-8")
    (root / "etc/machine-id").unlink(missing_ok=True)  # each host gets its own


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
