"""Which workers of a large fleet a gateway uses: all gateways work it out alike, so that each worker has several.

The gateways are points on a ring, and a worker belongs to those that follow it there. When a gateway comes or goes,
only the workers next to its points change hands, and a worker that comes or goes moves no other.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable
from hashlib import blake2b

from discovery import Member

_POINTS = 64  # of a gateway: with more, the parts are more equal
_LEAST = 8  # workers of each model version that a gateway has to choose from, if there are as many


class Subset:
    """The part of the gateway ``name`` in a fleet of more than ``above`` workers, each with ``copies`` gateways."""

    def __init__(self, name: str, *, above: int, copies: int) -> None:
        self._name = name
        self._above = above
        self._copies = copies
        self._gateways: frozenset[str] = frozenset()
        self._ring: list[tuple[int, str]] = []

    def __repr__(self) -> str:
        return f"<Subset of {self._name} among {len(self._gateways)} gateways>"

    def of(self, members: Collection[Member], gateways: Iterable[str]) -> set[str]:
        """The incarnations that this gateway uses.

        All of a fleet that is not large, or that has no more gateways than a worker needs. Of a model version that few
        workers have there are more than the ring gives, so that no gateway is without it.
        """
        gateways = frozenset({*gateways, self._name})
        if len(members) <= self._above or len(gateways) <= self._copies:
            return {member.incarnation for member in members}
        if gateways != self._gateways:
            self._gateways = gateways
            self._ring = sorted((_place(f"{n}:{gateway}"), gateway) for gateway in gateways for n in range(_POINTS))
        ours = {member.incarnation for member in members if self._name in self.users(member.name)}
        return ours | set(self._scarce(members, ours))

    def users(self, worker: str) -> set[str]:
        """The gateways that use a worker: the first different ones from its place on the ring."""
        at, found = bisect(self._ring, (_place(worker), "")), set[str]()
        while len(found) < self._copies:
            found.add(self._ring[at % len(self._ring)][1])
            at += 1
        return found

    def _scarce(self, members: Iterable[Member], ours: set[str]) -> Iterable[str]:
        groups: dict[str, list[Member]] = {}
        for member in members:
            for key in member.models or ("",):  # discovery may not know them
                groups.setdefault(key, []).append(member)
        for group in groups.values():
            missing = _LEAST - sum(member.incarnation in ours for member in group)
            if missing > 0:
                others = [member for member in group if member.incarnation not in ours]
                others.sort(key=lambda member: _place(f"{self._name}:{member.name}"))
                yield from (member.incarnation for member in others[:missing])


def _place(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
