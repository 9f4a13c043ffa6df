"""The rules of Consul's blocking queries."""

from __future__ import annotations

WAIT = 50  # seconds; Consul adds up to a sixteenth
PAUSE = 0.1  # seconds between two: at most ten a second, however fast things change
_REST = 0.0001  # seconds more for each member: reading one takes a quarter of that


def rest(count: int) -> float:
    """Seconds to leave a long list alone, so that reading it again and again takes a fifth of the time at most."""
    return count * _REST


def advance(last: int, answered: str | int) -> int:
    """The index to wait for next: 0, which does not wait, when it went backwards (Consul was reset)."""
    index = max(1, int(answered))
    return index if index >= last else 0
