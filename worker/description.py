"""A worker's interface as its OpenAPI document says it: every route of the public listener."""

from __future__ import annotations

from typing import Any

from shoal import openapi
from shoal.descriptions import LIVE, OPENAPI, SCHEMES, jobs, native, open_inference, tensorflow_serving
from shoal.errors import ExpiredTicket, InvalidTicket, MissingTicket, SpentTicket, UnknownLabel, WrongWorker
from shoal.openapi import TEXT, Answer, Operation

__all__ = ["OPERATIONS", "document"]

_TICKET = ("ticket", "ticket_header")
_UNAUTHORIZED = (MissingTicket, InvalidTicket, ExpiredTicket, SpentTicket)

OPERATIONS: tuple[Operation, ...] = (
    *native.predictions((native.MODEL, native.VERSION), _UNAUTHORIZED, _TICKET),
    *jobs.operations((), (), ()),
    LIVE,
    *tensorflow_serving.operations((), (*_UNAUTHORIZED, UnknownLabel), (*_UNAUTHORIZED, WrongWorker), _TICKET),
    *open_inference.operations((), _UNAUTHORIZED, (*_UNAUTHORIZED, WrongWorker), _TICKET),
    Operation("GET", "/", "A welcome", "about", {200: Answer("Some text.", {TEXT: str})}),
    OPENAPI,
)


def document() -> dict[str, Any]:
    """The OpenAPI document of a worker."""
    schemes = {name: scheme for name, scheme in SCHEMES.items() if name in _TICKET}
    about = "A worker of a Shoal cluster. A gateway's lookup gives the ticket that an upload needs."
    return openapi.document("Shoal, worker", about, OPERATIONS, schemes=schemes)
