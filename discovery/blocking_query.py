"""The rules of Consul's blocking queries."""

from __future__ import annotations

WAIT = 50  # seconds; Consul adds up to a sixteenth
PAUSE = 0.1  # seconds between two: at most ten a second, however fast things change


def advance(last: int, answered: str | int) -> int:
    """The index to wait for next: 0, which does not wait, when it went backwards (Consul was reset)."""
    index = max(1, int(answered))
    return index if index >= last else 0
