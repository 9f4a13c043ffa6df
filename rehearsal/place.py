"""Where a lab keeps its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/var/cache/shoal-rehearsal")
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")


def check_name(name: str) -> str:
    """Raises ``ValueError`` unless it may name a lab or a host."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name} is no name here: a letter, then at most 11 letters and digits, all lower case")
    return name


@dataclass(frozen=True)
class Place:
    """``folder`` holds what all labs share, and a folder for each."""

    folder: Path
    name: str

    @property
    def root(self) -> Path:
        """The Debian that every host starts as."""
        return self.folder / "root"

    @property
    def packages(self) -> Path:
        """What apt has fetched before."""
        return self.folder / "packages"

    @property
    def lab(self) -> Path:
        return self.folder / "labs" / self.name

    @property
    def socket(self) -> Path:
        """Where the keeper takes orders."""
        return self.lab / "keeper.sock"

    @property
    def log(self) -> Path:
        return self.lab / "keeper.log"

    @property
    def key(self) -> Path:
        """The SSH key of the hosts' root."""
        return self.lab / "id"

    @property
    def inventory(self) -> Path:
        return self.lab / "hosts.json"

    def machine(self, host: str) -> Path:
        return self.lab / "machines" / host
