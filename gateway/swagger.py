"""The interface's description as a page: Swagger UI, out of the Python package that carries its files.

Nothing of it comes from elsewhere. The package is looked for and never imported, for it is made for another framework.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from aiohttp import web

from shoal.errors import UnknownPath

__all__ = ["file", "page"]

_PACKAGE = "flask_swagger_ui"
_OWN = Path(__file__).parent / "docs"
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "start.js": "text/javascript",
    "page.css": "text/css",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Swagger UI sets styles by script, which needs no permission, and has its icons in its style sheet."""


async def page(request: web.Request) -> web.StreamResponse:
    """The page. Raises ``UnknownPath`` when the package is not installed."""
    return _response(_OWN / "page.html", "text/html")


async def file(request: web.Request) -> web.StreamResponse:
    """One of the files that the page asks for. Raises ``UnknownPath`` for any other."""
    name = request.match_info["file"]
    if name not in _TYPES:
        raise UnknownPath
    own = _OWN / name
    return _response(own if own.exists() else _packaged() / name, _TYPES[name])


def _response(path: Path, content_type: str) -> web.FileResponse:
    _packaged()
    charset = "" if content_type.startswith("image/") else "; charset=utf-8"
    return web.FileResponse(path, headers={**_HEADERS, "Content-Type": content_type + charset})


@cache
def _packaged() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UnknownPath("The page needs a package that is not installed here: pip install 'shoal[gateway]'.")
    return Path(found.submodule_search_locations[0]) / "dist"
