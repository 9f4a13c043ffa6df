"""What a gateway and a front do alike with HTTP: request ids, errors as JSON, one log line, bounded bodies."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage

from shoal import access, paths
from shoal.access import Remote
from shoal.errors import (
    BodyTooLarge,
    EmptyBody,
    InvalidOption,
    InvalidRequest,
    MethodNotAllowed,
    MissingImage,
    ShoalError,
    UnknownPath,
    UploadTimeout,
)
from shoal.logs import request_id as current_request_id
from shoal.metrics import HttpMetrics
from shoal.traces import OFF, Tracer
from shoal.wire import Option, Priority

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
TIMEOUT_MS = "Shoal-Timeout-Ms"
LOAD = "Shoal-Load"
UPLOADS = "Shoal-Uploads"
GATEWAY = "Shoal-Gateway"
KEY = "Shoal-Key"
CACHE = "Shoal-Cache"
PREFER = "Prefer"
WEBHOOK = "Shoal-Webhook"
JOB = "Shoal-Job"
"""The random part of an asynchronous job's id, as a gateway says it: the same at each worker that it tries."""
JSON_LENGTH = "Inference-Header-Content-Length"
"""Of the Open Inference Protocol: how many bytes of a body are JSON; raw tensors follow."""
PROVENANCE = ("Shoal-Model", "Shoal-Version", "Shoal-Worker")
"""What a picture's headers say, as a JSON answer's fields would."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]*)?")
_FIELDS = ("image", "data")  # the two origin systems' names
_MAX_PARTS = 16
_CHUNK = 64 * 1024

MODEL, SUBJECT = access.MODEL, access.SUBJECT

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def dumps(document: object) -> str:
    if isinstance(document, msgspec.Struct):
        return msgspec.json.encode(document).decode()
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def json_response(document: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=dumps(document), status=status, headers=headers, content_type="application/json")


def document_of(make: Callable[[], object]) -> Handler:
    """A handler that answers with the same JSON document each time, made at the first."""
    text = cache(lambda: dumps(make()))

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text(), content_type="application/json")

    return answer


def error_response(error: ShoalError, request_id: str, path: str = "") -> web.Response:
    """The one place where an error becomes an answer: of the ``path``'s dialect."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    elif error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    if error.uploads:
        headers[UPLOADS] = str(error.uploads)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    body = {"error": error.message} if path.startswith(paths.PLAIN_ERRORS) else error.body(request_id)
    return json_response(body, status=error.status, headers=headers)


def _translate(error: web.HTTPException) -> ShoalError:
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return UnknownPath()
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return MethodNotAllowed()
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return BodyTooLarge()
        case _:
            return InvalidRequest(error.reason)


def middleware(
    metrics: HttpMetrics, is_draining: Callable[[], bool], *, remote: Remote | None = None, tracer: Tracer = OFF
) -> Any:
    """Request id, error rendering, access log, trace and request metrics, around every handler."""

    remote = remote or Remote()

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(REQUEST_ID, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = current_request_id.set(request_id)
        started = time.perf_counter()
        metrics.in_progress.inc()
        resource = request.match_info.route.resource
        path = resource.canonical if resource else "other"
        if access.log.isEnabledFor(logging.DEBUG):
            access.log.debug("begun", extra={"method": request.method, "path": access.shown(request, path)})
        code, status, sent = "client_closed", 499, 0
        using = OFF if path in access.PROBES else tracer
        with using.span(f"{request.method} {path}", "server", carried=request.headers):
            try:
                response = await _answer(request, handler, request_id)
                code, status = response.headers.get("Shoal-Code", "ok"), response.status
                sent = response.content_length or 0
                if not response.prepared:
                    response.headers[REQUEST_ID] = request_id
                    if is_draining():
                        response.force_close()
                return response
            finally:
                seconds = time.perf_counter() - started
                metrics.in_progress.dec()
                metrics.requests.labels(path, request.get(MODEL, ""), code).inc()
                metrics.duration.labels(path).observe(seconds)
                access.write(
                    request, path=path, remote=remote.of(request), status=status, code=code, seconds=seconds, sent=sent
                )
                _note(using, request, path, status, code)
                current_request_id.reset(token)

    return around


def _note(tracer: Tracer, request: web.Request, path: str, status: int, code: str) -> None:
    if tracer.is_on:
        tracer.note(
            failed=status >= HTTPStatus.INTERNAL_SERVER_ERROR,
            http_request_method=request.method,
            http_route=path,
            http_response_status__code=status,
            shoal_code=code,
            shoal_model=request.get(MODEL, ""),
            shoal_request__id=current_request_id.get(),
        )


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    allow = ""
    try:
        return await handler(request)
    except ShoalError as error:
        failure = error
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        failure = _translate(error)
        allow = error.headers.get("Allow", "")
    except (BadHttpMessage, web.RequestPayloadError) as error:
        failure = InvalidRequest(f"The body is malformed: {type(error).__name__}.")
    except Exception:
        log.exception("unexpected error")
        failure = ShoalError()
    response = error_response(failure, request_id, request.path)
    response.headers["Shoal-Code"] = failure.code
    if allow:
        response.headers["Allow"] = allow
    if not request.content.is_eof():
        response.force_close()
    return response


def bearer(request: web.Request, *, header: str = "", parameter: str = "") -> str | None:
    """The credential of a request: the named query parameter, else ``Authorization: Bearer``, else the header."""
    if parameter and request.query.get(parameter):
        return request.query[parameter]  # a client that followed a redirect may still send its API key
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credential.strip():
        return credential.strip()
    return (header and request.headers.get(header)) or None


def timeout_of(request: web.Request, *, default: float, most: float) -> float:
    """Seconds that the caller will wait, ``most`` at the most. Raises ``InvalidOption``."""
    text = request.headers.get(TIMEOUT_MS)
    if text is None:
        return min(default, most)
    number = _number(text)
    if number is None or number < 1:
        raise InvalidOption(f"{TIMEOUT_MS} is a whole number of milliseconds, 1 or more.")
    return min(number / 1000, most)


def whole_number(request: web.Request, name: str, *, default: int, most: int) -> int:
    """The query parameter ``name``, from 1 to ``most``. Raises ``InvalidOption``."""
    text = request.query.get(name)
    if text is None:
        return default
    number = _number(text)
    if number is None or not 1 <= number <= most:
        raise InvalidOption(f"{name} is a whole number from 1 to {most}.")
    return number


def number_of(request: web.Request, name: str, option: Option) -> float | None:
    """The query parameter ``name`` as ``option`` allows it; None when it is not given. Raises ``InvalidOption``."""
    text = request.query.get(name)
    if text is None:
        return None
    number = (_number(text) if option.whole else _decimal(text)) if text.isascii() else None
    if number is None or not option.low <= number <= option.high:
        kind = "whole number" if option.whole else "number"
        raise InvalidOption(f"{name} is a {kind} from {option.low:g} to {option.high:g}.")
    return number


def switch(request: web.Request, name: str) -> bool | None:
    """The query parameter ``name``, 0 or 1; None when it is not given. Raises ``InvalidOption``."""
    text = request.query.get(name)
    if text not in (None, "0", "1"):
        raise InvalidOption(f"{name} is 0 or 1.")
    return None if text is None else text == "1"


def prefers(request: web.Request, content_type: str) -> bool:
    """Whether ``Accept`` names ``content_type``, and nothing else before it or with a higher quality."""
    accepted = request.headers.get("Accept", "")
    if content_type not in accepted:
        return False
    best, chosen = 0.0, ""
    for part in accepted.split(","):
        kind, *parameters = (text.strip().lower() for text in part.split(";"))
        quality = next((_decimal(p[2:]) or 0.0 for p in parameters if p.startswith("q=")), 1.0)
        if quality > best:
            best, chosen = quality, kind
    return chosen == content_type


def prefers_async(request: web.Request) -> bool:
    """Whether ``Prefer`` (RFC 7240) has ``respond-async``; others may be left out. Raises ``InvalidOption``."""
    said = [
        part.partition(";")[0].strip().lower()
        for value in request.headers.getall(PREFER, ())
        for part in value.split(",")
    ]
    for preference in said:
        name, equals, value = (text.strip() for text in preference.partition("="))
        if name == "respond-async":
            if equals and value.strip('"'):
                raise InvalidOption("The preference respond-async has no value.")
            return True
    return False


def priority_of(request: web.Request) -> Priority:
    """The query parameter ``priority``. Raises ``InvalidOption``."""
    match request.query.get("priority", "interactive"):
        case "interactive":
            return "interactive"
        case "bulk":
            return "bulk"
        case _:
            raise InvalidOption("priority is interactive or bulk.")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _decimal(text: str) -> float | None:
    return float(text) if len(text) < 32 and _DECIMAL.fullmatch(text) else None


def check_head(request: web.Request, limit: int) -> None:
    """Refuse a body by what its head says, before a byte of it is read.

    Raises ``BodyTooLarge``, or ``InvalidRequest`` for a compressed body: images are compressed already, and the
    limits are of what arrives.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidRequest("A body with a Content-Encoding is not accepted: send the image as it is.")
    if request.content_length is not None:
        check_length(request.content_length, limit)


def check_length(length: int, limit: int) -> None:
    """Raises ``BodyTooLarge``."""
    if length > limit:
        raise BodyTooLarge(f"The body has {length} bytes; {limit} are accepted here.")


def welcome_body(request: web.Request) -> None:
    """Tell a client that asked first (``Expect: 100-continue``) to send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def expect_nothing_yet(_: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to the handler, which asks for the body only when it wants it."""


async def read_images(request: web.Request, limit: int, timeout: float, *, most: int = 1) -> list[bytes]:
    """The images of a request: its raw body, or the form's file fields ``image`` or ``data``, ``most`` at the most.

    ``limit`` is of all bytes together. Raises ``BodyTooLarge``, ``EmptyBody``, ``MissingImage``, ``UploadTimeout`` or
    ``InvalidRequest``.
    """
    if request.content_type.startswith("multipart/"):
        check_head(request, limit)
        images = await _received(request, _form_images(request, limit, most), timeout)
    else:
        images = [await read_body(request, limit, timeout)]
    for number, image in enumerate(images, 1):
        if not image:
            raise EmptyBody(f"Image {number} is empty." if len(images) > 1 else None)
    return images


async def read_body(request: web.Request, limit: int, timeout: float) -> bytes:
    """The body as it is. Raises ``BodyTooLarge`` or ``UploadTimeout``."""
    check_head(request, limit)
    return await _received(request, _collect(request.content.iter_any(), limit), timeout)


async def _received(request: web.Request, receiving: Coroutine[Any, Any, T], timeout: float) -> T:
    welcome_body(request)
    try:
        async with asyncio.timeout(timeout):
            return await receiving
    except TimeoutError:
        raise UploadTimeout(f"The body did not arrive within {timeout:g} s.") from None


async def _collect(chunks: Any, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The body has more than {limit} bytes.")
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _form_images(request: web.Request, limit: int, most: int) -> list[bytes]:
    images: list[bytes] = []
    try:
        form = await request.multipart()
        for _ in range(most + _MAX_PARTS):
            try:
                part = await form.next()
            except ValueError:
                if len(images) == 1:
                    break  # whoever sent one image may have left out the end of the form
                raise
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                raise InvalidRequest("A form inside a form is not accepted.")
            data = await _collect(_chunks(part), limit)
            limit -= len(data)
            if part.name in _FIELDS:
                images.append(data)
            if len(images) > most:
                raise InvalidRequest(f"The form has more than {most} images.")
    except (ValueError, AssertionError, RuntimeError, EOFError) as error:
        raise InvalidRequest("The form is malformed.") from error
    if not images:
        raise MissingImage
    return images


async def _chunks(part: BodyPartReader) -> Any:
    while chunk := await part.read_chunk(_CHUNK):
        yield chunk
