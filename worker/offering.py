"""How the images of a request are offered to the queue: what the scripts are told, and what they say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from worker.jobs import Kept, Offer, Submitted
from worker.redis_keys import arrived_of, bytes_of, quarantine_of, streams_of, ticket_of

GROUP = "models"
TICKET_LIFETIME_MS = 600_000  # longer than any ticket lives

_BULK_SHARE = 0.75  # of the capacity: bulk jobs leave room for interactive ones
_FLIGHT_SLACK_MS = 60_000


def keys_of(key: str, ticket: str) -> list[str]:
    """What is read and written for an offer to the queue of ``key``."""
    return [*streams_of(key), bytes_of(key), quarantine_of(key), arrived_of(key), ticket_of(ticket)]


def words_of(
    offers: Sequence[Offer], packed: Sequence[bytes], room: int, room_bytes: int, *, uses: int, gateway: str
) -> list[Any]:
    """The offers of one request, with their ``packed`` jobs, as the scripts take them."""
    first = offers[0]
    words: list[Any] = [first.priority, room, room_bytes, first.front, gateway, uses, TICKET_LIFETIME_MS]
    if first.sharing is None:
        words += [0, 0, 0]
    else:
        longest_wait = int((first.deadline - time.monotonic()) * 1000) + _FLIGHT_SLACK_MS
        words += [first.sharing.lifetime_ms, first.sharing.most_bytes, longest_wait]
    for offer, job in zip(offers, packed, strict=True):
        words += [offer.id, offer.digest, *offer.names, job]
    return words


def outcome_of(kind: bytes, value: bytes, offer: Offer, depth: int, size: int) -> Submitted | Kept:
    """What became of one offer."""
    if kind == b"kept":
        return Kept(value)
    flight = offer.sharing.flight if offer.sharing else ""
    return Submitted(value, depth, size, offer.priority, flight, offer.id, joined=kind == b"joined")


def bulk_capacity(capacity: int) -> int:
    """The most jobs that may be there when a bulk job is accepted."""
    return max(1, int(capacity * _BULK_SHARE))
