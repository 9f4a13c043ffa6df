"""Brings one version to a node's cache.

python -m worker.repository.fetch     (the supervisor starts it and writes its orders to standard input)

It prints ``{"event": "fetched", "folder": …}``, once the manifest is seen to be valid, or with a ``reason`` ``failed``,
which another time may not be so, or ``refused``: what lies at the source is not what was published, or not a model. It
dies with its parent.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from types import FrameType

import msgspec

from shoal import processes
from worker.models import manifest
from worker.models.digests import digest_of
from worker.repository import sources
from worker.repository.cache import Cache

__all__ = ["Orders", "WrongDigest", "fetch"]

_LONGEST_REASON = 2000
_MANIFEST_MEMORY = 1 << 30
_NICE = 10


class WrongDigest(ValueError):
    """A source holds another folder than was published."""


class _Late(BaseException):
    """The time for everything has passed. No library takes it for an error of its own."""


class Orders(msgspec.Struct, frozen=True):
    """The first line on standard input.

    The cache holds ``most_bytes``, and so no version is larger. ``keep`` are the digests in use, which are not removed
    to make room. ``timeout`` is in seconds, for everything.
    """

    source: str
    digest: str
    cache: str
    most_bytes: int
    timeout: float
    keep: list[str] = []


def fetch(source: str, digest: str, cache: Cache, *, most_bytes: int, keep: Collection[str] = ()) -> Path:
    """The folder with ``digest``, from the cache or else from ``source``.

    Raises ``WrongDigest``, ``BadSource``, ``Unreachable``, ``OSError``, ``ValueError``.
    """
    if found := cache.find(digest):
        return found
    with cache.scratch() as scratch:
        folder = sources.obtain(source, scratch, most_bytes=most_bytes).folder
        if (actual := digest_of(folder)) != digest:
            raise WrongDigest(f"{_named(source)} has the digest {actual}, and {digest} was published")
        fetched = cache.put(folder, digest)
    cache.shrink(most_bytes, {digest, *keep})
    return fetched


def main() -> int:
    os.nice(_NICE)  # whoever serves goes first
    tell = processes.only_to_parent()
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    threading.Thread(target=_end_with_input, name="lifeline", daemon=True).start()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, max(orders.timeout, 0.001))
    try:
        folder = fetch(
            orders.source, orders.digest, Cache(Path(orders.cache)), most_bytes=orders.most_bytes, keep=orders.keep
        )
        _limit_memory()
        manifest.read(folder)
    except _Late:
        event, reason = "failed", f"not fetched within {orders.timeout:g} seconds"
    except MemoryError:
        event, reason = "refused", f"reading its {manifest.FILE} takes too much memory"
    except OSError as error:
        event, reason = "failed", str(error)
    except ValueError as error:
        event, reason = "refused", str(error)
    else:
        tell({"event": "fetched", "folder": str(folder)})
        return 0
    tell({"event": event, "reason": f"{_named(orders.source)}: {reason}"[:_LONGEST_REASON]})
    return 1


def _limit_memory() -> None:
    """A foreign manifest of a megabyte can need terabytes to parse: better here than in the supervisor."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MANIFEST_MEMORY, _MANIFEST_MEMORY))


def _named(source: str) -> str:
    return source if sources.local_path(source) else sources.shown(source)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _late(number: int, frame: FrameType | None) -> None:
    raise _Late


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(main())
