"""What a node may be asked about its models, by whoever has a ticket; no use of it is spent."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from shoal.errors import InvalidTicket, NotReady, UnknownLabel, UnknownModel
from shoal.publication import order
from shoal.tickets import Ticket
from shoal.wire import ModelCard, ModelState
from worker.asking import NO_LABELS, model_of
from worker.dialects import Target
from worker.load_reports import LoadReports

__all__ = ["Questions"]


class Questions:
    """What the supervisor said last. ``ticket`` verifies that of a request, and is None where there are none."""

    def __init__(self, reports: LoadReports, ticket: Callable[[web.Request], Ticket | None]) -> None:
        self._reports = reports
        self._ticket = ticket

    def __repr__(self) -> str:
        return f"<Questions about {len(self._reports.state.models)} models>"

    def permit(self, request: web.Request) -> None:
        """Raises what is wrong with the ticket."""
        self._ticket(request)

    def all(self, request: web.Request) -> dict[str, ModelState]:
        """Every model version by its key, any ticket will do. Raises what is wrong with it, or ``NotReady``."""
        self._ticket(request)
        if not self._reports.is_informed:
            raise NotReady
        return dict(self._reports.state.models)

    def versions(self, request: web.Request) -> dict[str, ModelState]:
        """The versions of the path's model, or the one that the path names, by key and in order.

        Raises what is wrong with the ticket, ``NotReady``, ``UnknownModel`` or ``UnknownLabel``.
        """
        ticket, target = self._ticket(request), _target(request)
        if ticket is not None and target.model != ticket.model.rpartition("@")[0]:
            raise InvalidTicket("The ticket is for another model.")
        if target.label is not None and ticket is None:
            raise UnknownLabel(NO_LABELS)
        if not self._reports.is_informed:
            raise NotReady
        version = ticket.model.rpartition("@")[2] if ticket and target.label is not None else target.version
        found = {
            key: state
            for key, state in self._reports.state.models.items()
            if key.rpartition("@")[0] == target.model and version in (None, key.rpartition("@")[2])
        }
        if not found:
            wanted = target.model if target.version is None else f"{target.model}@{target.version}"
            raise UnknownModel(f"There is no model {wanted!r} on this worker.")
        return dict(sorted(found.items(), key=lambda item: order(item[0].rpartition("@")[2])))

    def card(self, request: web.Request) -> tuple[ModelState, ModelCard]:
        """The version that would answer the path's model. Raises as ``versions``."""
        return model_of(_target(request), self._ticket(request), self._reports)


def _target(request: web.Request) -> Target:
    said = request.match_info
    return Target(said["model"], said.get("version"), said.get("label"))
