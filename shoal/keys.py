"""API keys: who may call a gateway. The file holds only their hashes, and is followed while the gateway runs.

The file has a line for each key, ``NAME sha256:HEX``, with ``admin`` behind it for one that may also drain workers; a
key is 32 random bytes, so a plain hash is enough.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidKey, MissingKey
from shoal.files import write_whole

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE = re.compile(rf"({_NAME.pattern})\s+sha256:([0-9a-f]{{64}})(\s+admin)?")
_PREFIX = "shoal_"


class InvalidKeyFile(ValueError):
    """The key file has a line that is not a key."""


@dataclass(frozen=True)
class Holder:
    """Whose key it is. An ``admin`` may do more than ask for predictions."""

    name: str
    is_admin: bool = False


def parse(text: str) -> dict[str, Holder]:
    """Hash → holder. Raises ``InvalidKeyFile`` with the numbers of all bad lines."""
    keys: dict[str, Holder] = {}
    bad = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match:
            keys[match[2]] = Holder(match[1], is_admin=match[3] is not None)
        else:
            bad.append(str(number))
    if bad:
        raise InvalidKeyFile(f"not 'NAME sha256:HEX' or 'NAME sha256:HEX admin' in line {', '.join(bad)}")
    return keys


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def add(path: Path, name: str, *, is_admin: bool = False) -> str:
    """Add a new key for ``name`` to the file and return it: it is never shown again."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a key's name is 1 to 64 letters, digits, '.', '_' or '-', not {name!r}")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if name in {holder.name for holder in parse(text).values()}:
        raise ValueError(f"there is a key named {name!r} already")
    key = _PREFIX + secrets.token_urlsafe(32)
    gap = "" if text.endswith("\n") or not text else "\n"
    role = " admin" if is_admin else ""
    write_whole(path, f"{text}{gap}{name} sha256:{_digest(key)}{role}\n", mode=0o600)
    return key


def remove(path: Path, name: str) -> None:
    """Take the key of ``name`` back. Raises ``ValueError`` when there is none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split(maxsplit=1)[:1] != [name]]
    if len(kept) == len(lines):
        raise ValueError(f"there is no key named {name!r}")
    write_whole(path, "".join(kept), mode=0o600)


def add_webhook_secret(path: Path) -> str:
    """Add a new secret that signs webhooks to the file and return it: each that is there signs, so one can replace
    another. The receiver needs it too."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    write_whole(path, f"{secret}\n{text}", mode=0o600)
    return secret


class KeyRing:
    """The API keys in force. A change of the file counts within a second; a broken file changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._checked = time.monotonic()
        self._keys = parse(path.read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._keys)} keys>"

    def _look(self) -> tuple[int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_ino

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._checked < 0.5:
            return
        self._checked = now
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._keys = parse(self._path.read_text(encoding="utf-8"))
                self._stamp = stamp  # only now: a file that could not be read is tried again
                log.info("API keys reloaded", extra={"keys": len(self._keys)})
        except (OSError, ValueError) as error:
            log.error("API keys not reloaded, the old ones stay", extra={"error": str(error)})

    def holder(self, key: str | None) -> Holder:
        """The caller. Raises ``MissingKey`` or ``InvalidKey``."""
        if not key:
            raise MissingKey
        self._follow()
        holder = self._keys.get(_digest(key))
        if holder is None:
            raise InvalidKey
        return holder
