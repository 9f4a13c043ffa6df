"""``python -m discovery.doctor``: what ``shoal doctor`` asks of discovery, in a process of its own.

It reads a line of JSON, ``{"url", "token"}``, and prints one: ``{"members": [{"role", "name", "internal_url"}]}`` or
``{"problem"}``. It registers nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from discovery import DiscoveryUnavailable, Role, connect

_FIRST_SECONDS = 5.0
_ROLES: tuple[Role, ...] = ("gateway", "worker")


async def members(url: str, token: str | None) -> list[dict[str, Any]]:
    """Who is registered and ready. Raises ``DiscoveryUnavailable``, ``OSError`` or ``ValueError``."""
    found = []
    async with connect(url, token=token, snapshot_timeout=_FIRST_SECONDS) as discovery:
        for role in _ROLES:
            async with discovery.watch(role) as watch:
                found += [{"role": role, "name": m.name, "internal_url": m.internal_url} for m in watch.directory]
    return found


def main() -> int:
    orders = json.loads(sys.stdin.readline())
    try:
        answer: dict[str, Any] = {"members": asyncio.run(members(orders["url"], orders["token"]))}
    except (DiscoveryUnavailable, OSError, ValueError) as error:
        answer = {"problem": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
