"""The gateway's interface as its OpenAPI document says it: every route of the public listener."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from shoal import openapi
from shoal.descriptions import LIVE, OPENAPI, SCHEMES, SWITCH, TIMEOUT, jobs, native, open_inference, tensorflow_serving
from shoal.documents import Drained, Lookup, OneWorker, Ready, ScaleSignal, Status
from shoal.errors import (
    BadGateway,
    DeadlineExceeded,
    Draining,
    InvalidKey,
    InvalidOption,
    MissingKey,
    NotAllowed,
    NoWorker,
    QueueFull,
    TooManyListeners,
    UnknownLabel,
    UnknownModel,
    UnknownPath,
    UnknownWorker,
)
from shoal.openapi import BINARY, JSON, TEXT, Answer, Operation, Parameter

__all__ = ["MOST_USES", "OPERATIONS", "document"]

MOST_USES = 64
"""Of a ticket."""

_KEY = ("key", "key_header")
_UNAUTHORIZED = (MissingKey, InvalidKey)
_AWAY = (BadGateway, NoWorker, Draining)
_TARGET = Annotated[float, Meta(ge=0.05, le=1)]
_LONGEST_KEY = Meta(max_length=256)

_SPLIT = (
    Parameter("key", Annotated[str, _LONGEST_KEY], "Where traffic is split, equal keys get equal versions."),
    Parameter("Shoal-Key", Annotated[str, _LONGEST_KEY], "The same key.", "header"),
    Parameter("priority", Literal["interactive", "bulk"], "`bulk` waits for the others."),
)
_WHOM = (
    native.MODEL,
    native.VERSION,
    Parameter("label", str, "The label of a version, instead of its number."),
    *_SPLIT,
)
_INCARNATION = Parameter("incarnation", str, "As a lookup says it.", "path")
_LOOKUP = (
    *_WHOM,
    TIMEOUT,
    replace(jobs.PREFER, about="`respond-async`: for a job, which may wait as long as it likes."),
    Parameter("n", Annotated[int, Meta(ge=1, le=MOST_USES)], "Uses of the ticket."),
    Parameter("exclude", str, "Incarnations of workers to avoid, separated by commas."),
    Parameter("digest", Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")], "The SHA-256 of the image."),
    Parameter("format", Literal["json", "text", "port"], "`text`: the complete URL; `port`: `PORT/?ticket=…`."),
)
_REDIRECT = Parameter("redirect", SWITCH, "`1`: the answer is where to upload it, with a ticket in the URL.")
_ELSEWHERE = Answer("Upload it there.", headers={"Location": "A worker's URL, with a ticket."})
_WELCOME = {TEXT: str, "text/html": str}
_CHOICE = (InvalidOption, UnknownModel, UnknownLabel, QueueFull, NoWorker)

_TIMEOUT_OF_JOBS = replace(TIMEOUT, about="How long the caller waits, in milliseconds; 10,000 by default, and at most.")

OPERATIONS: tuple[Operation, ...] = (
    *native.predictions((*_WHOM, _REDIRECT), (*_UNAUTHORIZED, UnknownLabel, *_AWAY), _KEY, {307: _ELSEWHERE}),
    Operation(
        "GET",
        "/lookup",
        "Where to upload an image, with a ticket for it",
        "predictions",
        {200: Answer("A worker and a ticket.", {JSON: Lookup, TEXT: str})},
        parameters=_LOOKUP,
        errors=(*_UNAUTHORIZED, *_CHOICE),
        credentials=_KEY,
    ),
    Operation(
        "GET",
        "/status",
        "Every worker with its load, and what is published",
        "cluster",
        {200: Answer("The cluster as this gateway sees it.", {JSON: Status})},
        errors=_UNAUTHORIZED,
        credentials=_KEY,
    ),
    Operation(
        "GET",
        "/workers/{incarnation}",
        "The state of one worker",
        "cluster",
        {200: Answer("Its state; `gone` when there is none by that incarnation.", {JSON: OneWorker})},
        parameters=(_INCARNATION,),
        errors=_UNAUTHORIZED,
        credentials=_KEY,
    ),
    Operation(
        "POST",
        "/workers/{incarnation}/drain",
        "Have a worker finish what it has, and stop",
        "cluster",
        {202: Answer("It has been told.", {JSON: Drained})},
        about="For those with an admin key.",
        parameters=(_INCARNATION,),
        errors=(*_UNAUTHORIZED, NotAllowed, UnknownWorker, BadGateway),
        credentials=_KEY,
    ),
    Operation(
        "GET",
        "/events",
        "The state of the cluster, live",
        "cluster",
        {200: Answer("`hello`, then `state` whenever it has changed.", {"text/event-stream": str})},
        about="Server-sent events that do not end; each `state` is a JSON document.",
        errors=(*_UNAUTHORIZED, TooManyListeners, Draining),
        credentials=_KEY,
    ),
    *jobs.operations((_TIMEOUT_OF_JOBS,), (*_UNAUTHORIZED, InvalidOption, BadGateway, DeadlineExceeded), _KEY),
    Operation(
        "GET",
        "/v1/scale-signal",
        "How many workers the load needs",
        "cluster",
        {200: Answer("The suggestion.", {JSON: ScaleSignal})},
        parameters=(Parameter("target", _TARGET, "How busy a worker is to be, as a share; 0.7 by default."),),
        errors=(*_UNAUTHORIZED, InvalidOption),
        credentials=_KEY,
    ),
    *tensorflow_serving.operations(
        _SPLIT, (*_UNAUTHORIZED, UnknownLabel, *_AWAY), (*_UNAUTHORIZED, BadGateway, NoWorker), _KEY
    ),
    *open_inference.operations(_SPLIT, (*_UNAUTHORIZED, *_AWAY), (*_UNAUTHORIZED, *_AWAY), _KEY),
    LIVE,
    Operation(
        "GET",
        "/readyz",
        "Whether the gateway takes requests",
        "health",
        {200: Answer("It does.", {JSON: Ready})},
        errors=(Draining,),
    ),
    Operation("GET", "/", "The web page", "about", {200: Answer("To a browser; a line of text to others.", _WELCOME)}),
    OPENAPI,
    Operation("GET", "/docs", "This document as a page", "about", {200: Answer("The page.", {"text/html": str})}),
    Operation(
        "GET",
        "/docs/{file}",
        "A part of that page",
        "about",
        {200: Answer("The file.", {"text/javascript": str, "text/css": str, "image/png": BINARY})},
        parameters=(Parameter("file", str, "Its name.", "path", example="start.js"),),
        errors=(UnknownPath,),
    ),
)


def document() -> dict[str, Any]:
    """The OpenAPI document of a gateway."""
    schemes = {name: scheme for name, scheme in SCHEMES.items() if name in _KEY}
    about = "Image inference on a cluster: send an image here, or ask where to upload it."
    return openapi.document("Shoal, gateway", about, OPERATIONS, schemes=schemes)
