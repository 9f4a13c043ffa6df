"""The tickets with which a gateway itself goes to the workers."""

from __future__ import annotations

import time

from gateway.fleet import Fleet
from gateway.known_worker import Worker
from shoal.tickets import Signer
from shoal.wire import Priority

__all__ = ["ProxyTickets"]

_LIFETIME = 60.0


class ProxyTickets:
    """One ticket of any number of uses for each worker, model version and priority, renewed at half its life."""

    def __init__(self, gateway: str, signer: Signer, fleet: Fleet, *, max_bytes: int) -> None:
        self._gateway = gateway
        self._signer = signer
        self._fleet = fleet
        self._max_bytes = max_bytes
        self._tickets: dict[tuple[str, str, Priority], tuple[float, str]] = {}
        self._forgot = float("-inf")

    def __repr__(self) -> str:
        return f"<ProxyTickets of {self._gateway}: {len(self._tickets)}>"

    def ticket(self, worker: Worker, key: str, priority: Priority = "interactive") -> str:
        name = (worker.incarnation, key, priority)
        renew, ticket = self._tickets.get(name, (float("-inf"), ""))
        if time.monotonic() > renew:
            ticket = self._signer.sign(
                audience=worker.incarnation,
                model=key,
                subject=f"gateway:{self._gateway}",
                max_bytes=self._max_bytes,
                uses=0,
                lifetime=_LIFETIME,
                gateway=self._gateway,
                priority=priority,
            )
            self._forget()
            self._tickets[name] = (time.monotonic() + _LIFETIME / 2, ticket)
        return ticket

    def _forget(self) -> None:
        """The tickets of workers that are gone; not at each new ticket, for that looks at every worker."""
        if time.monotonic() > self._forgot + _LIFETIME / 2:
            present = {worker.incarnation for worker in self._fleet} | self._fleet.elsewhere.keys()
            self._tickets = {n: t for n, t in self._tickets.items() if n[0] in present}
            self._forgot = time.monotonic()
