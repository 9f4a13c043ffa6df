"""nginx's own errors as Shoal's JSON: every status that it answers with by itself, and the error that it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable

from nginx.text import Lines, block
from shoal import http, paths
from shoal.errors import (
    BadGateway,
    BodyTooLarge,
    DeadlineExceeded,
    HeadTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    ShoalError,
    TooManyRequests,
    Unavailable,
    UnknownPath,
    UploadTimeout,
    UriTooLong,
)

__all__ = ["LOCATIONS", "PAGES", "PAGES_BUT_LOST", "STATUSES", "maps"]

_NEW_REQUEST_ID = "$shoal_request_id"

# By the status as nginx knows it. 494 to 497 are its own: no client ever sees them. A body that does not come in time
# (408) and a client that has gone (499) get no answer at all, only a line in the access log.
STATUSES: dict[int, ShoalError] = {
    400: InvalidRequest(),
    404: UnknownPath(),
    405: MethodNotAllowed(),
    408: UploadTimeout(),
    413: BodyTooLarge(),
    414: UriTooLong(),
    429: TooManyRequests(retry_after=1),
    494: HeadTooLarge(),
    495: InvalidRequest("The client's certificate is not accepted here."),
    496: InvalidRequest("A client's certificate is needed here."),
    497: InvalidRequest("Plain HTTP was sent to a port for HTTPS."),
    500: ShoalError(),
    501: InvalidRequest("The method, or the Transfer-Encoding, is not known here."),
    502: BadGateway("No gateway answered."),
    503: Unavailable(retry_after=1),
    504: DeadlineExceeded(),
    505: InvalidRequest("This version of HTTP is not spoken here."),
}


def _path(status: object) -> str:
    return f"/shoal-error/{status}"


def _pages(*but: int) -> tuple[str, ...]:
    same = [status for status, error in STATUSES.items() if status == error.status and status not in but]
    others = ((status, error) for status, error in STATUSES.items() if status != error.status)
    return (
        f"error_page {' '.join(map(str, same))} {_path('$status')};",
        *(f"error_page {status} ={error.status} {_path(status)};" for status, error in others),
    )


PAGES = _pages()
"""In every location that has an ``error_page`` of its own: nginx inherits all of them, or none."""
PAGES_BUT_LOST = _pages(502, 504)
"""Without those of a gateway that did not answer."""


def maps() -> Lines:
    """The bodies: of other servers' paths as their clients read them."""
    plain = "|".join(paths.PLAIN_ERRORS)
    yield f"map $request_uri $shoal_dialect {{ default native; ~^({plain}) plain; }}"
    for status, error in STATUSES.items():
        native = json.dumps(error.body(_NEW_REQUEST_ID), separators=(",", ":"))
        foreign = json.dumps({"error": error.message}, separators=(",", ":"))
        yield f"map $shoal_dialect $shoal_error_{status} {{ default {_quoted(native)}; plain {_quoted(foreign)}; }}"


def locations() -> Lines:
    for status, error in STATUSES.items():
        yield from block(f"location = {_path(status)}", _said(status, error))


def _said(status: int, error: ShoalError) -> Lines:
    yield "internal;"
    yield "default_type application/json;"
    yield from (f"add_header {name} {value} always;" for name, value in _headers(error))
    yield f"return {error.status} $shoal_error_{status};"


def _headers(error: ShoalError) -> Iterable[tuple[str, str]]:
    yield http.REQUEST_ID, _NEW_REQUEST_ID
    yield "Shoal-Code", error.code
    if error.retry_after is not None:
        yield "Retry-After", f"{error.retry_after:g}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


LOCATIONS = tuple(locations())
