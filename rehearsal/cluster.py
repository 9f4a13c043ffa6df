"""The cluster as its clients see it: over TLS, trusting its own authority and nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.pictures import make
from shoal.answers import Answer
from shoal.client import AsyncClient, Mode

_TIMEOUT = 30.0
_PAUSE = 0.5


@dataclass(frozen=True)
class Cluster:
    """``entrances`` are the URLs of nginx on each gateway's host, ``gateways`` those of the gateways behind them."""

    entrances: tuple[str, ...]
    gateways: tuple[str, ...]
    api_key: str
    ca: Path

    def predict(self, mode: Mode, url: str) -> Answer:
        """The answer to a picture that is sent this way. Raises ``ShoalError``."""
        return asyncio.run(self._predict(mode, url))

    async def _predict(self, mode: Mode, url: str) -> Answer:
        async with AsyncClient(url, api_key=self.api_key, mode=mode, timeout=_TIMEOUT, ca=self.ca) as client:
            return await client.predict(make([(640, 480)], 1)[0].data)

    def status(self, url: str) -> dict[str, Any]:
        """What the gateway there says of itself and the fleet."""
        asked = urllib.request.Request(f"{url}/status", headers={"Authorization": f"Bearer {self.api_key}"})  # noqa: S310
        context = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(asked, timeout=_TIMEOUT, context=context) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
        return found

    def ready(self) -> list[str]:
        """The names of the workers that take requests."""
        return sorted(each["name"] for each in self.status(self.entrances[0])["workers"] if each["state"] == "ready")

    def versions(self) -> list[str]:
        """The versions that run, each worker's and each gateway's."""
        known = [self.status(url) for url in self.gateways]
        return [each["version"] for each in known] + [each["version"] for each in known[0]["workers"]]


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    """How long it took, in seconds. Raises ``TimeoutError``."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(_PAUSE)
    return time.monotonic() - began
