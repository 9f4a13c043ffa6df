"""As many workers as the load asks for: what a gateway's scale signal suggests is what the auto-scaling group gets.

Every gateway's host does the same each minute: it says what its own gateway suggests, takes the greatest of what all
said in the last minutes, and tells the group. So there is no leader, nothing to lose with a host, and no number that
falls for a moment. While nobody says anything the group stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from cloud.aws import Group, Wishes
from cloud.errors import CloudError

MINUTES = 3

_TIMEOUT = aiohttp.ClientTimeout(total=10)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gateway:
    """Whose scale signal is asked, and how."""

    url: str
    target: float = 0.7
    api_key: str = ""
    ca: str = ""
    """PEM file of the CA of its certificate; empty: those of the system."""
    name: str = ""
    """The name that its certificate must have; empty: the URL's host."""

    def desired(self) -> int:
        """The number of workers that it suggests. Raises ``CloudError``."""
        return asyncio.run(self._desired())

    async def _desired(self) -> int:
        secure = ssl.create_default_context(cafile=self.ca or None)
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        url = f"{self.url.rstrip('/')}/v1/scale-signal"
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session,
                session.get(
                    url, params={"target": f"{self.target:g}"}, ssl=secure, server_hostname=self.name or None
                ) as answer,
            ):
                answer.raise_for_status()
                document: dict[str, Any] = await answer.json()
                return int(document["total"]["desired"])
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError) as error:
            raise CloudError(f"no scale signal of {self.url}: {error!r}") from error


def adjust(gateway: Gateway, wishes: Wishes, group: Group) -> int | None:
    """Do it once. Returns what the group was told; None when it was not. Raises ``CloudError``."""
    try:
        wishes.say(gateway.desired())
    except CloudError as error:
        log.warning("others decide", extra={"error": str(error)})
    greatest = wishes.greatest(MINUTES)
    if greatest is None:
        return None
    capacity = group.capacity()
    wanted = max(capacity.minimum, min(greatest, capacity.maximum))
    if wanted == capacity.desired:
        return None
    group.want(wanted)
    log.info("scaled", extra={"before": capacity.desired, "now": wanted, "asked": greatest})
    return wanted


def keep(
    gateway: Gateway, wishes: Wishes, group: Group, interval: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Do it for ever."""
    while True:
        try:
            adjust(gateway, wishes, group)
        except CloudError as error:
            log.warning("not scaled", extra={"error": str(error)})
        sleep(interval)
