"""What the head of a request says to a gateway; the rest of its query is for the model's task."""

from __future__ import annotations

import re
import secrets
from urllib.parse import urlencode

from aiohttp import web

from shoal import http, logs, traces
from shoal.errors import InvalidOption, InvalidRequest

_OWN = ("model", "version", "label", "key", "priority", "exclude", "n", "format", "redirect", "ticket", "digest")
_PASSED_ON = ("Accept", "Cache-Control", http.JSON_LENGTH, http.PREFER, http.WEBHOOK, *traces.HEADERS)
_LONGEST_KEY = 256
_JOB = web.RequestKey("job", str)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def options(request: web.Request) -> list[tuple[str, str]]:
    """The query parameters that are not the gateway's own."""
    return [(name, value) for name, value in request.query.items() if name not in _OWN]


def model_of(request: web.Request) -> str | None:
    """The model that is asked for, if any: in the path, or as a query parameter."""
    return request.match_info.get("model") or request.query.get("model")


def version_of(request: web.Request) -> tuple[str | None, str | None]:
    """The version or the label that is asked for, if any: in the path, or as a query parameter.

    Raises ``InvalidOption``.
    """
    said = {**request.query, **request.match_info}
    version, label = said.get("version"), said.get("label")
    if version is not None and label is not None:
        raise InvalidOption("Say a version or a label, not both.")
    return version, label


def key_of(request: web.Request) -> str:
    """What decides the version in a split: the caller's key, or else the request's id. Raises ``InvalidOption``."""
    said = request.query.get("key", ""), request.headers.get(http.KEY, "")
    if max(map(len, said)) > _LONGEST_KEY:
        raise InvalidOption(f"A key has at most {_LONGEST_KEY} characters.")
    return said[0] or said[1] or logs.request_id.get()


def digest_of(request: web.Request) -> str:
    """The sha256 of the image that will be uploaded, if the caller says it. Raises ``InvalidOption``."""
    digest = request.query.get("digest")
    if digest is not None and not _DIGEST.fullmatch(digest.lower()):
        raise InvalidOption("digest is the SHA-256 of the image: 64 hexadecimal digits.")
    return (digest or "").lower()


def excluded(request: web.Request) -> frozenset[str]:
    """The incarnations that a lookup is to avoid."""
    return frozenset(request.query.get("exclude", "").split(",")) - {""}


def uploads(request: web.Request, *, most: int) -> int:
    """How many workers have seen this request already, as the SDK counts when it falls back to us."""
    text = request.headers.get(http.UPLOADS, "0")
    return int(text) if text in ("0", "1") else most - 1


def of_job(request: web.Request, remaining_ms: int) -> dict[str, str]:
    """What a worker is told of the time that it has, and of the id of an asynchronous job, which is one at all workers.

    Raises ``InvalidOption``.
    """
    if not http.prefers_async(request):
        return {http.TIMEOUT_MS: str(remaining_ms)}
    name = request.setdefault(_JOB, secrets.token_hex(16))
    said = request.headers.get(http.TIMEOUT_MS)
    return {http.JOB: name} | ({} if said is None else {http.TIMEOUT_MS: said})


def name_job(request: web.Request, name: str) -> None:
    """Have ``of_job`` say this name, because another gateway has said it already."""
    request[_JOB] = name


def to_worker(request: web.Request, ticket: str, remaining_ms: int) -> dict[str, str]:
    """What a worker is sent of the request's headers, and instead of its key the ``ticket``.

    Raises ``InvalidOption``, or ``InvalidRequest`` for a value that no header can carry.
    """
    headers = {
        "Authorization": f"Bearer {ticket}",
        "Content-Type": request.headers.get("Content-Type", "application/octet-stream"),
        http.REQUEST_ID: logs.request_id.get(),
    }
    headers |= of_job(request, remaining_ms)
    headers |= {name: ", ".join(request.headers.getall(name)) for name in _PASSED_ON if name in request.headers}
    try:
        "".join(headers.values()).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("A header is not UTF-8.") from error
    return headers


def path_at_worker(request: web.Request, path: str) -> str:
    """``path`` with the part of the query that is for the model's task."""
    query = urlencode(options(request))
    return f"{path}?{query}" if query else path


def wants_text(request: web.Request) -> bool:
    return request.headers.get("Accept", "").split(";")[0].split(",")[0].strip() == "text/plain"
