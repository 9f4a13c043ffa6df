"""What lookups have granted to a client, and is not used yet."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass
class Grant:
    """A lookup's answer: leave to upload ``uses`` more images to one worker until ``expires`` (monotonic)."""

    url: str
    ticket: str
    incarnation: str
    uses: int
    expires: float


class Grants:
    """The grants in hand for one model. Callers that wait together share one lookup."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.current: Grant | None = None

    def take(self, excluded: set[str]) -> Grant | None:
        grant = self.current
        if grant is None or grant.uses < 1 or grant.expires < time.monotonic() or grant.incarnation in excluded:
            return None
        grant.uses -= 1
        return grant
