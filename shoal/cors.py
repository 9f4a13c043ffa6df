"""Which web pages may call us from a browser: those of the origins that an operator has named (Fetch standard)."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import hdrs, web

from shoal import http
from shoal.http import Handler

_ANSWERS = (
    *("Retry-After", "Server-Timing", "Location", "Preference-Applied", "Shoal-Code"),
    *(http.REQUEST_ID, http.CACHE, http.UPLOADS, *http.PROVENANCE),
)
_REQUESTS = (
    *("Authorization", "Content-Type", "X-API-Key", http.PREFER, http.WEBHOOK),
    *(http.REQUEST_ID, http.TIMEOUT_MS, http.UPLOADS, http.KEY),
)
_PREFLIGHT = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(_REQUESTS),
    hdrs.ACCESS_CONTROL_MAX_AGE: "7200",
}


def allow(app: web.Application, origins: Sequence[str]) -> None:
    """Let pages of ``origins`` read every answer of ``app``, errors too.

    Nothing here knows cookies, so such a page still needs a key or a ticket to get one.
    """

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        asks = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if asks and is_among(request.headers.get(hdrs.ORIGIN, ""), origins):
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get(hdrs.ORIGIN, "")
        if is_among(origin, origins):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(_ANSWERS)
            response.headers["Timing-Allow-Origin"] = origin
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    if origins:
        app.middlewares.insert(0, preflight)
        app.on_response_prepare.append(mark)


def is_among(origin: str, origins: Sequence[str]) -> bool:
    """Whether ``origin`` is one of them. One that ends in ``:*`` stands for every port of its host."""
    host, colon, port = origin.rpartition(":")
    any_port = f"{host}:*" if colon and port.isascii() and port.isdigit() else ""
    return bool(origin) and (origin in origins or bool(any_port and any_port in origins))
