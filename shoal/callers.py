"""Who may call what among ourselves: one table for each listener, by the roles that a caller's certificate names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from shoal import tls
from shoal.errors import NotAllowed
from shoal.http import Handler

log = logging.getLogger(__name__)

Roles = frozenset[str] | None
"""One of them is enough; None: any certificate of the CA, such as that of Consul's agent."""
Table = Mapping[str, Roles]

_PROBES: Table = {"/livez": None, "/readyz": None}
_WATCHERS = frozenset({"prometheus", "admin"})
_REST = ""

WORKER: Table = {**_PROBES, "/metrics": _WATCHERS, _REST: frozenset({"gateway", "nginx", "admin"})}
GATEWAY: Table = {**_PROBES, "/metrics": _WATCHERS, "/targets": _WATCHERS, _REST: frozenset({"nginx", "admin"})}
ADMIN: Table = {_REST: frozenset({"admin"})}


def only(table: Table) -> Any:
    """A middleware for a listener with mutual TLS. Raises ``NotAllowed``."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        wanted = table.get(request.path, table[_REST])
        roles = tls.roles_in(request.get_extra_info("peercert"))
        if wanted is not None and not roles & wanted:
            who = ", ".join(sorted(roles)) or "no role"
            raise NotAllowed(f"Your certificate names {who}; this is for {', '.join(sorted(wanted))}.")
        return await handler(request)

    return check
