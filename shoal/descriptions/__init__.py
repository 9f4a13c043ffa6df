"""What operations say of themselves, as far as a gateway and a worker answer alike. Each dialect has its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from shoal.documents import Live
from shoal.errors import InvalidRequest, ShoalError
from shoal.openapi import JSON, Answer, Operation, Parameter

__all__ = ["CACHE", "LIVE", "OPENAPI", "SCHEMES", "SWITCH", "TIMEOUT", "question", "refused", "variables"]

SWITCH = Literal["0", "1"]

TIMEOUT = Parameter(
    "Shoal-Timeout-Ms",
    Annotated[int, Meta(ge=1, le=999_999_999)],
    "How long the caller waits, in milliseconds; 30,000 by default, cut to what the server allows.",
    "header",
)

CACHE = Parameter("cache", SWITCH, "`0`: executed for this request, whatever answer is kept.")

_VARIABLES = (
    Parameter("model", str, "The model.", "path", example="lite0"),
    Parameter("version", str, "Its version.", "path", example="1"),
    Parameter("label", str, "The label of a version.", "path", example="stable"),
)

SCHEMES: dict[str, dict[str, Any]] = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, as `shoal keys add` prints it."},
    "key_header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same API key."},
    "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "A ticket, as a lookup gives it."},
    "ticket_header": {"type": "http", "scheme": "bearer", "description": "The same ticket."},
}

LIVE = Operation(
    "GET",
    "/livez",
    "Whether the process answers",
    "health",
    {200: Answer("It does.", {JSON: Live})},
)
OPENAPI = Operation(
    "GET",
    "/openapi.json",
    "This document",
    "about",
    {200: Answer("An OpenAPI 3.1 document.", {JSON: dict[str, Any]})},
)


def variables(path: str) -> tuple[Parameter, ...]:
    """What is named in a path about a model."""
    return tuple(variable for variable in _VARIABLES if f"{{{variable.name}:" in path)


def question(
    path: str, summary: str, tag: str, document: Any, *, errors: Sequence[type[ShoalError]], credentials: Sequence[str]
) -> Operation:
    """A GET about a model, or about all of them, that is answered with a ``document``."""
    answers = {200: Answer("The answer.", {JSON: document})}
    return Operation(
        "GET", path, summary, tag, answers, parameters=variables(path), errors=errors, credentials=credentials
    )


def refused(
    path: str, summary: str, tag: str, *, errors: Sequence[type[ShoalError]], credentials: Sequence[str]
) -> Operation:
    """A POST that other servers take, and that is an ``InvalidRequest`` here."""
    errors = (*errors, InvalidRequest)
    return Operation("POST", path, summary, tag, {}, parameters=variables(path), errors=errors, credentials=credentials)
