"""Send equal images to the same worker, which has their answer, unless that worker is too busy."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from gateway.balancers.candidate import C

SHARE = 1.25
SLACK = 0.05  # seconds


def by_content(candidates: Sequence[C], digest: str) -> C:
    """Of at least one candidate, in the order of rendezvous hashing, the first that would not wait too long.

    That is 1.25 times what they wait on average, and 50 ms, so that a popular image overruns nobody. A worker that
    goes away moves only the images that it had.
    """
    longest = SHARE * sum(c.expected_wait for c in candidates) / len(candidates) + SLACK
    return max(
        (c for c in candidates if c.expected_wait <= longest),
        key=lambda c: sha256(f"{digest}:{c.name}".encode()).digest(),
    )
