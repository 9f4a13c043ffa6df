"""What a gateway knows of the model versions from its fleet, and how it asks the workers for what only they know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from gateway.fleet import Fleet, Wish
from gateway.known_worker import Worker
from gateway.proxy import Answer, Broken, NotSent, Proxy
from gateway.proxy_tickets import ProxyTickets
from shoal import http, logs
from shoal.errors import BadGateway, NoWorker, ShoalError, from_code
from shoal.publication import order
from shoal.wire import Status

__all__ = ["Inquiries", "VersionState", "version_states", "wish_of"]

_SECONDS = 5.0
_MOST_ASKED = 3
_AT_ONCE = 32  # of the workers: each is a connection, and in a large fleet they are thousands
_OF_ANOTHER = (401, 421, 502, 503)  # what one worker answers, and another may not
_OK = 200
_BEST_FIRST: tuple[Status, ...] = ("ready", "stalled", "restarting", "loading", "failed", "stopping")


@dataclass(frozen=True)
class VersionState:
    """A model version in the whole fleet: the best that a worker says of it, and why.

    ``status`` is None where no worker has it.
    """

    key: str
    status: Status | None
    reason: str

    @property
    def model(self) -> str:
        return self.key.rpartition("@")[0]

    @property
    def version(self) -> str:
        return self.key.rpartition("@")[2]


def version_states(fleet: Fleet, model: str | None = None) -> list[VersionState]:
    """Every model version that is known, or those of one ``model``, by name and number."""
    keys = [key for key in fleet.known() if model in (None, key.rpartition("@")[0])]
    keys.sort(key=lambda key: (key.rpartition("@")[0], order(key.rpartition("@")[2])))
    return [_state(fleet, key) for key in keys]


def wish_of(request: web.Request) -> Wish:
    """Whom a question is about, by its path."""
    said = request.match_info
    return Wish(said["model"], said.get("version"), said.get("label"), key=logs.request_id.get())


class Inquiries:
    """Asks workers by their internal listeners."""

    def __init__(self, fleet: Fleet, proxy: Proxy, tickets: ProxyTickets) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._tickets = tickets

    def __repr__(self) -> str:
        return f"<Inquiries to {self._fleet!r}>"

    async def ask_one(self, wish: Wish, path: str) -> Any:
        """The JSON that a worker answers to ``GET path``, of those that serve the wish, whether or not it has room.

        ``{version}`` in the path becomes the version that it serves. Raises what the worker answers, ``BadGateway``
        when none does, and what ``Fleet.serving`` raises.
        """
        failure: ShoalError = BadGateway()
        for choice in self._fleet.serving(wish)[:_MOST_ASKED]:
            version = quote(choice.key.rpartition("@")[2], safe="")
            try:
                answer = await self._get(choice.worker, choice.key, path.replace("{version}", version))
            except BadGateway as error:
                failure = error
                continue
            if answer.status == _OK:
                return _document(answer)
            failure = _error(answer)
            if answer.status not in _OF_ANOTHER:
                break
        raise failure

    async def ask_all(self, path: str, model: str | None = None, version: str | None = None) -> list[Any]:
        """What every worker answers that has a version of the model, or any model, in no order; those of other gateways
        as well.

        Raises ``NoWorker`` when there is none, and ``BadGateway`` when one of them does not answer, because a sum
        over the others would be wrong.
        """
        everyone = [*_present(self._fleet), *map(Worker, self._fleet.elsewhere.values())]
        asked = [(worker, key) for worker in everyone if (key := _one_of(worker, model, version))]
        if not asked:
            raise NoWorker
        places = asyncio.Semaphore(_AT_ONCE)

        async def ask(worker: Worker, key: str) -> Answer:
            async with places:
                return await self._get(worker, key, path)

        asking = [asyncio.ensure_future(ask(worker, key)) for worker, key in asked]
        try:
            answers = await asyncio.gather(*asking)
        finally:
            for question in asking:  # when one fails, the others are asked for nothing
                question.cancel()
        for answer in answers:
            if answer.status != _OK:
                raise BadGateway(f"A worker did not answer: {_error(answer).message}")
        return [_document(answer) for answer in answers]

    async def _get(self, worker: Worker, key: str, path: str) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._tickets.ticket(worker, key)}",
            http.REQUEST_ID: logs.request_id.get(),
        }
        try:
            url = f"{worker.member.internal_url}{path}"
            return await self._proxy.ask(url, headers, deadline=time.monotonic() + _SECONDS)
        except (NotSent, Broken, TimeoutError) as error:
            raise BadGateway(f"The worker {worker.member.name} did not answer.") from error


def _state(fleet: Fleet, key: str) -> VersionState:
    loads = [load for worker in _present(fleet) if (load := worker.load(key)) is not None]
    if not loads:
        return VersionState(key, None, "No worker has it.")
    best = min(loads, key=lambda load: _BEST_FIRST.index(load.status))
    return VersionState(key, best.status, best.reason)


def _present(fleet: Fleet) -> Iterable[Worker]:
    return [worker for worker in fleet if worker.state in ("ready", "ejected", "draining")]


def _one_of(worker: Worker, model: str | None, version: str | None) -> str:
    """A version of the model that the worker has, for a ticket to ask it with; empty when it has none."""
    for key in worker.keys:
        name, _, number = key.rpartition("@")
        if model in (None, name) and version in (None, number):
            return key
    return ""


def _document(answer: Answer) -> Any:
    try:
        return msgspec.json.decode(answer.body)
    except msgspec.DecodeError as error:
        raise BadGateway from error


def _error(answer: Answer) -> ShoalError:
    try:
        message = str(msgspec.json.decode(answer.body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return BadGateway(f"A worker answered with status {answer.status}.")
    return from_code(answer.headers.get("Shoal-Code", ""), message)
