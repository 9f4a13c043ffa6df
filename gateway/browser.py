"""What a browser gets at a gateway: the web page, as files that lie beside this one, and what they may do.

Its policy lets it run its own scripts alone, and talk to this gateway and to the workers that an operator has named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from aiohttp import hdrs, web

from shoal import http
from shoal.settings import GatewaySettings
from shoal.version import VERSION

_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Page:
    """The files of the page, read once."""

    def __init__(self, settings: GatewaySettings, welcome: str) -> None:
        self._welcome = welcome
        self._headers = _security(settings.browser_uploads)
        self._files = {path.name: path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
        self._bodies = {name: path.read_bytes() for name, path in self._files.items()}
        self._tags = {name: hashlib.sha256(body).hexdigest()[:32] for name, body in self._bodies.items()}
        self._settings = {
            "version": VERSION,
            "authentication": settings.authentication,
            "uploads": list(settings.browser_uploads),
            "max_bytes": settings.max_body_bytes,
        }

    def __repr__(self) -> str:
        return f"<Page of {len(self._bodies)} files>"

    def routes(self) -> list[web.RouteDef]:
        """The page for browsers, a line of text for others, and the page's files."""
        files = [web.get(f"/page/{name}", partial(self._file, name)) for name in self._bodies if name != "index.html"]
        return [web.get("/", self._root), web.get("/page/settings.json", self._tell_settings), *files]

    async def _root(self, request: web.Request) -> web.Response:
        if not http.prefers(request, "text/html"):
            return web.Response(text=self._welcome, headers={hdrs.VARY: hdrs.ACCEPT})
        response = await self._file("index.html", request)
        response.headers[hdrs.VARY] = hdrs.ACCEPT
        return response

    async def _file(self, name: str, request: web.Request) -> web.Response:
        """Kept by browsers, and asked for each time whether it is still the same: a gateway may have been replaced."""
        headers = {**self._headers, hdrs.ETAG: f'"{self._tags[name]}"', hdrs.CACHE_CONTROL: "no-cache"}
        if any(tag.value in (self._tags[name], "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers[hdrs.CONTENT_TYPE] = _TYPES[self._files[name].suffix]
        return web.Response(body=self._bodies[name], headers=headers)

    async def _tell_settings(self, request: web.Request) -> web.Response:
        """What the page must know of this gateway before it has a key."""
        return http.json_response(self._settings, headers={**self._headers, hdrs.CACHE_CONTROL: "no-store"})


def _security(uploads: Sequence[str]) -> dict[str, str]:
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": " ".join(["'self'", *uploads]),
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
