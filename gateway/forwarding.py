"""The fast path: nginx asks only where an upload goes, and carries the bytes to the worker itself.

The life of a request, with nginx's locations (``nginx/locations.py``) on the left::

    /predict     nginx has the head and the whole body, and asks ``GET /forward/predict?…`` with the client's headers
                   gateway: whose key, which model version, which worker; reserves a place there
                   → an error as it is, for the client (401, 404, 429 with Retry-After, 503)
                   → 204 and ``X-Accel-Redirect: @worker_30``; worker, its path, headers, state in ``Shoal-Forward-*``
                   → 204 and ``X-Accel-Redirect: @proxied``: let this one go through the gateway
    @worker_30   nginx sends head and body to the worker, with our ticket and without the client's key
                   → the worker's answer, as it is, for the client
                   → 421, 429, 502, 503, 504, no connection, a broken one, or nothing for 30 seconds:
    @again       nginx asks again, with the state that it was told and the outcome that it saw
                   gateway: notes how that worker failed; then as above, for another worker

nginx carries, and this file decides: it is the one layer that retries. A gateway keeps nothing between the questions,
so each of them may be asked at another one. The state counts the workers that may have executed the upload, of which
there are at most two (that of the SDK included, ``Shoal-Uploads``), and names those that were tried: one that refused
has executed nothing and is not asked again. How long nginx waits for the first worker is a multiple of how long such a
request should take: a worker that was paused cannot say so, and a gateway cannot break off nginx's connections as it
does its own. The second worker has all the time that is left.

What was reserved and never arrives is forgotten as after a lookup; the worker's counters say what arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from time import monotonic
from typing import Protocol

import msgspec
from aiohttp import web

from gateway import heads
from gateway.fleet import Choice, Fleet, Wish
from gateway.known_worker import Worker
from gateway.proxy_tickets import ProxyTickets
from shoal import access, forwarding, http, paths
from shoal.errors import BadGateway, DeadlineExceeded, InvalidRequest, ShoalError, from_code
from shoal.metrics import GatewayMetrics
from shoal.names import Names
from shoal.settings import GatewaySettings
from shoal.traces import Tracer

__all__ = ["Forwarding", "Outcome", "State"]

log = logging.getLogger(__name__)

MOST_UPLOADS = 2  # workers that may have executed one request
_MOST_TRIES = 4  # workers asked, those that refused included: nginx redirects within itself ten times at most
_LONGEST_WAIT = 10.0  # for a worker to turn up, within one question
_USUAL = 4.0  # times the expected time until a first worker is given up
_LEAST_PATIENCE = 2.0
_SINGLE_BREAK = 60.0  # seconds after which a break of a worker is no repetition
_PROXIED = "@proxied"
_NOTHING = ("-", "")  # of what did not come to pass: nginx says nothing at all of a worker whose name it does not know


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of an upload between two questions: the workers that were tried, how many of them may have executed
    it, and the name of its asynchronous job."""

    tried: tuple[str, ...] = ()
    uploads: int = 0
    job: str = ""

    @classmethod
    def read(cls, text: str) -> State:
        """Raises ``InvalidRequest`` for what no gateway said."""
        try:
            return msgspec.json.decode(text, type=cls) if text else cls()
        except msgspec.MsgspecError as error:
            raise InvalidRequest("No state of an upload.") from error

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Outcome:
    """How a worker failed, as nginx saw it. ``status`` is the worker's own when it ``answered``, else nginx's."""

    status: int
    connected: bool
    answered: bool
    code: str = ""
    retry_after: float | None = None

    @classmethod
    def read(cls, text: str) -> Outcome | None:
        """None when there was no worker yet. Raises ``InvalidRequest``."""
        if not text:
            return None
        try:
            status, connected, answered, code, retry_after = (part.strip() for part in text.split(";"))
            return cls(
                status=int(_last(status) or HTTPStatus.BAD_GATEWAY),
                connected=_last(connected) not in _NOTHING,
                answered=_last(answered) not in _NOTHING,
                code=code,
                retry_after=float(retry_after) if retry_after else None,
            )
        except ValueError as error:
            raise InvalidRequest("No outcome of an upload.") from error

    @property
    def executed(self) -> bool:
        """Whether the worker may have executed the upload."""
        return self.connected and not self.answered

    def failure(self) -> ShoalError:
        """What the client is told when there is nobody else."""
        kind = type(from_code(self.code, "")) if self.answered else ShoalError
        if kind is not ShoalError:
            return kind(retry_after=self.retry_after)
        if self.executed and self.status == HTTPStatus.GATEWAY_TIMEOUT:
            return DeadlineExceeded()
        return BadGateway("The worker went away before it answered." if self.connected else None)


def _last(series: str) -> str:
    """nginx tells of every hop of a request, as ``204 : 502, 502``."""
    return series.replace(":", ",").rpartition(",")[2].strip()


class Wishing(Protocol):
    def __call__(self, request: web.Request, *, seconds: float, public: bool) -> Wish: ...


@dataclass
class Forwarding:
    """The handlers of nginx's questions."""

    settings: GatewaySettings
    fleet: Fleet
    tickets: ProxyTickets
    metrics: GatewayMetrics
    tracer: Tracer
    authenticate: Callable[[web.Request], str]
    wish_of: Wishing
    names: Names = field(default_factory=Names)
    _breaks: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Forwarding to {self.fleet!r}>"

    def add_to(self, app: web.Application) -> None:
        for path in paths.PREDICTIONS:
            app.router.add_get(f"{forwarding.PREFIX}{path}", self._tell)

    async def _tell(self, request: web.Request) -> web.Response:
        request[access.WAY] = "forwarded"
        try:
            answer = await self._answer(request)
        except ShoalError as error:
            self.metrics.forwards.labels(request.get(http.MODEL, ""), error.code).inc()
            raise
        self.metrics.forwards.labels(request.get(http.MODEL, ""), "ok").inc()
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        """Where to; raises what the client is to be told instead."""
        self.authenticate(request)
        self._check_body(request)
        outcome = Outcome.read(request.headers.get(forwarding.OUTCOME, ""))
        state = State.read(request.headers.get(forwarding.STATE, ""))
        if outcome is None:
            state = _replaced(state, uploads=heads.uploads(request, most=MOST_UPLOADS))
        longest = http.timeout_of(request, default=self.settings.request_timeout, most=self.settings.longest_timeout)
        remaining = longest - _elapsed(request)
        if remaining <= 0:
            raise DeadlineExceeded
        wish = self.wish_of(request, seconds=remaining, public=False)
        if outcome is None and self._needs_body(request, wish):
            return _redirected(_PROXIED, {})
        with self.fleet.refusals.noted(wish.model):
            if outcome is not None:
                state = self._settle(outcome, state)
            choice = await self._choose(replace(wish, exclude=frozenset(state.tried)), state, outcome, remaining)
        return await self._granted(request, choice, state, remaining)

    def _check_body(self, request: web.Request) -> None:
        http.check_head(request, self.settings.max_body_bytes)
        length = request.headers.get(forwarding.LENGTH, "")
        if length.isdigit():
            http.check_length(int(length), self.settings.max_body_bytes)

    def _needs_body(self, request: web.Request, wish: Wish) -> bool:
        """Whether the way depends on the image itself, or the answer is to be marked for a web page elsewhere."""
        if "Origin" in request.headers and self.settings.cors_origins:
            return True
        return self.fleet.caches(wish.model) and not request.content_type.startswith("multipart/")

    def _settle(self, outcome: Outcome, state: State) -> State:
        """Take what nginx saw of the last worker. Raises when the upload may go to no other one."""
        worker = self.fleet.named(state.tried[-1]) if state.tried else None
        if worker is not None and not outcome.answered:
            log.warning("nginx lost a worker", extra={"worker": worker.member.name, "status": outcome.status})
            self._broke(worker, outcome)
        state = _replaced(state, uploads=state.uploads + outcome.executed)
        is_final = outcome.answered and outcome.status == HTTPStatus.GATEWAY_TIMEOUT
        if is_final or state.uploads >= MOST_UPLOADS or len(state.tried) >= _MOST_TRIES:
            raise _told(outcome.failure(), state)
        self.metrics.retries.labels("refused" if outcome.answered else "bad_gateway").inc()
        return state

    def _broke(self, worker: Worker, outcome: Outcome) -> None:
        """nginx does not tell of successes: a break that has no other before it within a minute is a first one."""
        if outcome.executed and outcome.status == HTTPStatus.GATEWAY_TIMEOUT and worker.state == "ready":
            return  # it reports, so it is only slow
        now = monotonic()
        self._breaks = {name: since for name, since in self._breaks.items() if now - since < _SINGLE_BREAK}
        if worker.incarnation not in self._breaks:
            worker.answered()
        self._breaks[worker.incarnation] = now
        if worker.broke():
            self.metrics.ejections.inc()

    async def _choose(self, wish: Wish, state: State, outcome: Outcome | None, remaining: float) -> Choice:
        """Who was accepted once waits for another worker as long as there is time, a new one only a little."""
        patience = min(remaining, _LONGEST_WAIT if state.uploads else self.settings.patience)
        try:
            choice = await self.fleet.await_choice(wish, patience)
        except ShoalError as error:
            raise _told(error, state) from None
        if outcome is not None and outcome.answered and choice.worker.incarnation in state.tried:
            raise _told(outcome.failure(), state)  # everybody has refused
        return choice

    async def _granted(self, request: web.Request, choice: Choice, state: State, remaining: float) -> web.Response:
        worker = choice.worker
        request[http.MODEL], request[access.WORKER] = choice.key, choice.name
        if state.job:
            heads.name_job(request, state.job)
        ticket = self.tickets.ticket(worker, choice.key, choice.priority)
        headers = heads.to_worker(request, ticket, int(remaining * 1000)) | self.tracer.headers()
        worker.reserve(choice.key, 1)
        state = State((*state.tried, worker.incarnation), state.uploads, headers.get(http.JOB, ""))
        told = {forwarding.header(name): value for name, value in headers.items() if name in forwarding.PASSED}
        told |= {
            forwarding.WORKER: await self.names.with_address(worker.member.internal_url.rstrip("/")),
            forwarding.PATH: heads.path_at_worker(request, request.rel_url.raw_path.removeprefix(forwarding.PREFIX)),
            forwarding.STATE: state.text(),
        }
        return _redirected(forwarding.within(_patience(choice, state, remaining)), told)


def _patience(choice: Choice, state: State, remaining: float) -> float:
    """Seconds that nginx is to wait for this worker's answer."""
    load = choice.worker.load(choice.key)
    if state.uploads or load is None or load.status != "ready":
        return remaining + 1
    usual = choice.expected_wait + load.seconds_per_image + choice.worker.rate(choice.key).seconds
    return min(remaining + 1, _LEAST_PATIENCE + _USUAL * usual)


def _replaced(state: State, *, uploads: int) -> State:
    return msgspec.structs.replace(state, uploads=uploads)


def _redirected(location: str, headers: dict[str, str]) -> web.Response:
    return web.Response(status=HTTPStatus.NO_CONTENT, headers={"X-Accel-Redirect": location} | headers)


def _told(error: ShoalError, state: State) -> ShoalError:
    error.uploads = state.uploads
    return error


def _elapsed(request: web.Request) -> float:
    """Seconds since nginx heard of the request. Raises ``InvalidRequest``."""
    try:
        return float(request.headers.get(forwarding.ELAPSED) or 0)
    except ValueError as error:
        raise InvalidRequest("No time.") from error
