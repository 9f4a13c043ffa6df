"""What nginx and a gateway say to each other when nginx carries an upload to a worker itself: names of headers.

nginx asks ``GET /forward/PATH?QUERY`` at a gateway's internal listener, with the client's own headers and without the
body, and is told the worker in headers of an answer that is empty. ``gateway/forwarding.py`` says how it goes on.
"""

from __future__ import annotations

from shoal import http, traces

__all__ = [
    "ELAPSED",
    "LENGTH",
    "OUTCOME",
    "PASSED",
    "PATH",
    "PATIENCE",
    "PREFIX",
    "STATE",
    "WORKER",
    "header",
    "within",
]

PREFIX = "/forward"
"""Of the paths that are questions of nginx. A client's path follows."""

# What nginx says beside the client's headers; whatever a client writes under these names is replaced.
LENGTH = "Shoal-Forward-Length"
ELAPSED = "Shoal-Forward-Elapsed"
OUTCOME = "Shoal-Forward-Outcome"
"""How the worker of the last answer failed: status, seconds to connect, seconds to its answer, and that one's code and
``Retry-After``, separated by semicolons. ``-`` is what did not come to pass."""

# What a gateway answers. The state is said back with the next question about the same request.
WORKER = "Shoal-Forward-Worker"
PATH = "Shoal-Forward-Path"
STATE = "Shoal-Forward-State"

PASSED = (
    "Accept",
    "Authorization",
    "Cache-Control",
    "Content-Type",
    http.JSON_LENGTH,
    http.JOB,
    http.PREFER,
    http.REQUEST_ID,
    http.TIMEOUT_MS,
    http.WEBHOOK,
    *traces.HEADERS,
)
"""The headers that a worker may be sent. The gateway says each of them, under the name that ``header`` gives."""

PATIENCE = (3, 10, 30, 100, 310, 3610, 86410)
"""Seconds that nginx can be told to wait for a worker: each a named location, since no variable gives it a timeout."""


def header(name: str) -> str:
    """The header of an answer that says what a worker's header ``name`` is to be."""
    return f"Shoal-Forward-{name}"


def within(seconds: float) -> str:
    """The named location that waits for a worker at least ``seconds``, as far as there is one."""
    return f"@worker_{next((limit for limit in PATIENCE if limit >= seconds), PATIENCE[-1])}"
