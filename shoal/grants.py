"""What lookups have granted to a client, and is not used yet."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

_WAIT_SHARE = 0.75


@dataclass
class Grant:
    """A lookup's answer: leave to upload ``uses`` more images to one worker until ``expires`` (monotonic).

    ``expected_wait`` is the seconds that the gateway expected them to wait there.
    """

    url: str
    ticket: str
    incarnation: str
    uses: int
    expires: float
    expected_wait: float


class Grants:
    """The grants in hand for one model. Callers that wait together share one lookup."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.current: Grant | None = None

    def take(self, excluded: set[str], seconds: float) -> Grant | None:
        """One use of the grant in hand, unless the caller avoids its worker or has only ``seconds`` to wait there."""
        grant = self.current
        if grant is None or grant.uses < 1 or grant.expires < time.monotonic() or grant.incarnation in excluded:
            return None
        if grant.expected_wait > seconds * _WAIT_SHARE:
            return None  # it was asked for by somebody with more time
        grant.uses -= 1
        return grant
