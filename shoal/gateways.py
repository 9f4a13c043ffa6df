"""The gateways that a client may ask: each in turn, and one that did not answer last of all for a while."""

from __future__ import annotations

import time

_AVOID_SECONDS = 5.0


class Gateways:
    """The URLs of at least one gateway."""

    def __init__(self, urls: str) -> None:
        """``urls`` are separated by commas. Raises ``ValueError`` when there is none."""
        self._urls = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
        if not self._urls:
            raise ValueError("gateway is the URL of at least one gateway")
        self._failed: dict[str, float] = {}
        self._turn = -1

    def __repr__(self) -> str:
        return ", ".join(self._urls)

    def in_turn(self) -> list[str]:
        """All of them, in the order to ask them this time."""
        self._turn = (self._turn + 1) % len(self._urls)
        turned = [*self._urls[self._turn :], *self._urls[: self._turn]]
        now = time.monotonic()
        return sorted(turned, key=lambda url: self._failed.get(url, 0.0) > now)

    def avoid(self, url: str) -> None:
        """It did not answer."""
        self._failed[url] = time.monotonic() + _AVOID_SECONDS
