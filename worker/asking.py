"""What a request asks for, by its head and its ticket: checked before its body is read."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from shoal import http, logs
from shoal.errors import InvalidTicket, NotReady, UnknownLabel, UnknownModel
from shoal.publication import order
from shoal.tickets import Ticket
from shoal.wire import ModelCard, ModelState, Output, Priority, model_key
from worker.dialects import Dialect, Target
from worker.front_orders import Limits
from worker.jobs import Sharing
from worker.load_reports import LoadReports

Caching = Literal["shared", "fresh", "off"]

NO_LABELS = "A worker knows no labels: ask a gateway, or name a version."


@dataclass(frozen=True)
class Wanted:
    """What a request asks for. ``deadline`` is on the monotonic clock, ``limit`` the most bytes of its images.

    ``caching`` is ``shared`` when an equal image's answer will do, and ``fresh`` when only others may use this one.
    With ``outputs``, the network's own ones are wanted (all, if it is empty), and not the task's answer.
    """

    state: ModelState
    card: ModelCard
    dialect: Dialect
    deadline: float
    options: dict[str, float]
    priority: Priority
    limit: int
    caching: Caching
    is_rendered: bool
    outputs: tuple[Output, ...] | None = None

    @property
    def seconds(self) -> float:
        """What is left, a little at least."""
        return max(0.001, self.deadline - time.monotonic())

    def about(self, worker: str) -> dict[str, str]:
        """What an answer says of where it comes from."""
        return {
            "model": self.card.model,
            "version": self.card.version,
            "digest": self.card.digest,
            "worker": worker,
            "request_id": logs.request_id.get(),
        }

    def sharing(self, digest: str, limits: Limits) -> Sharing | None:
        """How an image of this ``digest`` shares its execution and its answer with equal ones."""
        if self.caching == "off":
            return None
        content = content_of(digest, self.card, self.options, self.outputs)
        flight = content if self.caching == "shared" else uuid.uuid4().hex
        return Sharing(content, flight, int(limits.cache_lifetime * 1000), limits.cache_bytes)


def content_of(digest: str, card: ModelCard, options: dict[str, float], outputs: Sequence[Output] | None = None) -> str:
    """The name of all that an answer depends on: the image's bytes, the weights, the model version, what is asked."""
    parts = [digest, card.digest, card.key, sorted(options.items())]
    if outputs is not None:
        parts.append([[output.name, output.classes] for output in outputs])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def wanted(
    request: web.Request, ticket: Ticket | None, dialect: Dialect, *, reports: LoadReports, limits: Limits
) -> Wanted:
    """Everything that the head of a request says, checked. Raises what is wrong with it."""
    state, card = model_of(dialect.target(request), ticket, reports)
    request[http.MODEL] = card.key
    is_rendered = dialect.renders(request, card)
    seconds = http.timeout_of(request, default=limits.request_timeout, most=limits.longest_timeout)
    named = ((name, http.number_of(request, name, option)) for name, option in card.options.items())
    return Wanted(
        state=state,
        card=card,
        dialect=dialect,
        deadline=time.monotonic() + seconds,
        options={name: number for name, number in named if number is not None},
        priority=ticket.priority if ticket else http.priority_of(request),
        limit=min(limits.max_body_bytes, ticket.max_bytes) if ticket else limits.max_body_bytes,
        caching=_caching(request, card, limits),
        is_rendered=is_rendered,
    )


def _caching(request: web.Request, card: ModelCard, limits: Limits) -> Caching:
    wish = http.switch(request, "cache")
    if not limits.cache_bytes or not card.cacheable:
        return "off"
    lines = request.headers.getall("Cache-Control", ())
    said = {part.strip().lower() for line in lines for part in line.split(",")}
    if "no-store" in said:
        return "off"
    return "fresh" if wish is False or "no-cache" in said else "shared"


def model_of(target: Target, ticket: Ticket | None, reports: LoadReports) -> tuple[ModelState, ModelCard]:
    """The model version of a request: that of its ticket, or the one it names, or the node's best of the model.

    A label is resolved by the ticket alone. Raises ``InvalidTicket`` for a ticket of another model, ``UnknownModel``,
    ``UnknownLabel``, or ``NotReady`` while it has no card.
    """
    model, version = target.model, target.version
    models = reports.state.models
    if ticket is not None:
        permitted = ticket.model.rpartition("@")
        if model not in (None, permitted[0]) or version not in (None, permitted[2]):
            raise InvalidTicket("The ticket is for another model.")
        key: str | None = ticket.model
    elif target.label is not None:
        raise UnknownLabel(NO_LABELS)
    elif model is None:
        key = next(iter(models), None)
    elif version is not None:
        key = model_key(model, version)
    else:
        own = [k for k, state in models.items() if k.rpartition("@")[0] == model and state.status != "failed"]
        key = max(own, key=lambda k: (models[k].status == "ready", order(k.rpartition("@")[2])), default=None)
    if not reports.is_informed:
        raise NotReady
    state = models.get(key or "")
    if state is None and ticket is not None:
        raise NotReady(f"The model {key} is not served here any more: look up again.")
    if state is None:
        raise UnknownModel(f"There is no model {key or model!r} on this worker.")
    if state.card is None:
        raise NotReady(f"The model {key} is {state.status}.")
    return state, state.card
