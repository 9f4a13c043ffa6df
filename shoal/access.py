"""The access log: one line for each request, with who asked for what, by which way, and how it ended.

docs/observability.md describes its fields, and how to follow one request through the processes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from aiohttp import web

log = logging.getLogger("shoal.access")

PROBES = ("/livez", "/readyz", "/load", "/metrics", "/targets", "/v2/health/live", "/v2/health/ready")
"""Asked all the time, so they are logged for debugging only, and not traced."""

# What a handler adds to the log line and the metrics of its request.
MODEL = web.RequestKey("model", str)
SUBJECT = web.RequestKey("subject", str)
WAY = web.RequestKey("way", str)
WORKER = web.RequestKey("worker", str)

_FORWARDED = "X-Forwarded-For"


class Remote:
    """Where requests come from: the peer, or behind proxies of the ``trusted`` networks whom the last of them names."""

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = [ip_network(network) for network in trusted]

    def __repr__(self) -> str:
        return f"<Remote behind {self._trusted}>"

    def of(self, request: web.Request) -> str:
        """The address of the nearest host that is not a trusted proxy."""
        address = request.remote or ""
        if not self._trusted:
            return address
        hops = [hop.strip() for line in request.headers.getall(_FORWARDED, ()) for hop in line.split(",")]
        while hops and self._trusts(address):
            hop = hops.pop()
            if not _is_address(hop):
                break
            address = hop
        return address

    def _trusts(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._trusted)


def write(request: web.Request, *, path: str, remote: str, status: int, code: str, seconds: float, sent: int) -> None:
    """One line. ``path`` is the route's; never the query: it may hold a ticket."""
    log.log(
        logging.DEBUG if path in PROBES else logging.INFO,
        "request",
        extra={
            "method": request.method,
            "path": shown(request, path),
            "status": status,
            "code": code,
            "ms": round(seconds * 1000, 2),
            "bytes": request.content.total_bytes,
            "sent": sent,
            "model": request.get(MODEL, ""),
            "worker": request.get(WORKER, ""),
            "way": request.get(WAY, ""),
            "subject": request.get(SUBJECT, ""),
            "remote": remote,
        },
    )


def shown(request: web.Request, path: str) -> str:
    """The path as a log may hold it: whoever knows a job's id may ask about the job, so that one's is the route's."""
    return path if path.startswith("/jobs/") else request.path


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone may be any text
