"""The gateway's handlers: where to (lookup), or carry it there (proxy)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

import msgspec
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from gateway import description, heads, operators, state, swagger, targets
from gateway.browser import Page
from gateway.events import Events
from gateway.fleet import Choice, Fleet, Wish
from gateway.forwarding import MOST_UPLOADS, Forwarding
from gateway.inquiries import Inquiries
from gateway.jobs import Jobs
from gateway.known_worker import decode_report
from gateway.open_inference import OpenInference
from gateway.proxy import Answer, Broken, NotSent, Proxy, unless_silent
from gateway.proxy_tickets import ProxyTickets
from gateway.replay import Body, ReplayBuffer, Stream, digest
from gateway.scaling import ScaleSignal
from gateway.tensorflow_serving import TensorFlowServing
from shoal import access, callers, cors, http, metrics, paths, tls
from shoal.documents import Live, Lookup, OneWorker, Ready, Status
from shoal.errors import BadGateway, DeadlineExceeded, Draining, InvalidOption, ShoalError
from shoal.keys import Holder, KeyRing
from shoal.settings import GatewaySettings
from shoal.tickets import Signer
from shoal.traces import OFF, Tracer

log = logging.getLogger(__name__)

WELCOME = "Welcome to Shoal! POST an image to /predict, or ask /lookup where to upload it.\n"

_MOST_OF_ROOM = 1 / 8  # that one lookup may take
_MOST_TRIES = 5  # workers asked, those that refused included
_RETRYABLE_STATUS = (421, 429, 502, 503)
_PASSED_ON = (
    "Content-Type",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "Server-Timing",
    "Shoal-Code",
    http.CACHE,
    http.JSON_LENGTH,
    *http.PROVENANCE,
)


class Gateway:
    """One gateway. Its only state is the fleet, which it could rebuild at any moment."""

    def __init__(
        self,
        settings: GatewaySettings,
        name: str,
        *,
        fleet: Fleet,
        proxy: Proxy,
        signer: Signer,
        keys: KeyRing | None,
        gateway_metrics: metrics.GatewayMetrics,
        registry: CollectorRegistry,
        tracer: Tracer = OFF,
        certificates: Sequence[tls.Certificate | None] = (),
    ) -> None:
        self._settings = settings
        self._name = name
        self._fleet = fleet
        self._proxy = proxy
        self._signer = signer
        self._keys = keys
        self._metrics = gateway_metrics
        self._registry = registry
        self._tracer = tracer
        self._certificates = [certificate for certificate in certificates if certificate]
        self._replay = ReplayBuffer(body_bytes=settings.replay_body_bytes, total_bytes=settings.replay_total_bytes)
        self._tickets = ProxyTickets(name, signer, fleet, max_bytes=settings.max_body_bytes)
        self._inquiries = Inquiries(fleet, proxy, self._tickets)
        self._scale = ScaleSignal()
        self.events = Events(name, fleet)
        self.draining = False

    def __repr__(self) -> str:
        return f"<Gateway {self._name}: {self._fleet!r}>"

    def drain(self) -> None:
        """Take leave of those who keep a connection; the others notice by our answers."""
        self.draining = True
        self.events.close()

    def _app(self) -> web.Application:
        remote = access.Remote(self._settings.trusted_proxies)
        around = http.middleware(self._metrics, lambda: self.draining, remote=remote, tracer=self._tracer)
        return web.Application(middlewares=[around])

    def public_app(self) -> web.Application:
        app = self._app()
        cors.allow(app, self._settings.cors_origins)
        OpenInference(self._fleet, self._inquiries, self._authenticate, lambda: self.draining).add_to(app)
        TensorFlowServing(self._fleet, self._inquiries, self._authenticate).add_to(app)
        for path in paths.PREDICTIONS:
            app.router.add_post(path, self._predict, expect_handler=http.expect_nothing_yet)
        app.add_routes(Page(self._settings, WELCOME).routes())
        app.router.add_get("/events", self._events)
        app.router.add_post("/workers/{incarnation}/drain", self._drain)
        Jobs(self._fleet, self._proxy, self._authenticate).add_routes(app)
        app.router.add_get("/lookup", self._lookup)
        app.router.add_get("/status", self._status)
        app.router.add_get("/v1/scale-signal", self._scale_signal)
        app.router.add_get("/workers/{incarnation}", self._worker)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/openapi.json", http.document_of(description.document))
        app.router.add_get("/docs", swagger.page)
        app.router.add_get("/docs/{file}", swagger.file)
        return app

    def internal_app(self) -> web.Application:
        """What nginx, checks and Prometheus may reach: all that clients may, and more."""
        app = self.public_app()
        if self._settings.internal_files:
            app.middlewares.append(callers.only(callers.GATEWAY))
        Forwarding(
            self._settings, self._fleet, self._tickets, self._metrics, self._tracer, self._authenticate, self._wish
        ).add_to(app)
        app.router.add_get("/metrics", self._exposition)
        app.router.add_get("/targets", self._targets)
        return app

    def _authenticate(self, request: web.Request) -> str:
        return self._holder(request).name

    def _holder(self, request: web.Request) -> Holder:
        """Whose key the request has. Without authentication nobody has one, least of all an admin's."""
        if self._keys is None:
            return Holder("anonymous")
        holder = self._keys.holder(http.bearer(request, header="X-API-Key"))
        request[http.SUBJECT] = holder.name
        return holder

    def _wish(self, request: web.Request, *, seconds: float, public: bool) -> Wish:
        """What is asked for. A job may wait for longer than the ``seconds`` in which its upload has to end."""
        patient = http.prefers_async(request)
        version, label = heads.version_of(request)
        return Wish(
            model=heads.model_of(request) or self._fleet.default_model(),
            version=version,
            label=label,
            key=heads.key_of(request),
            digest=heads.digest_of(request) if public else "",
            public=public,
            priority=http.priority_of(request),
            seconds=float("inf") if patient else seconds,
            exclude=heads.excluded(request) if public else frozenset(),
        )

    def _seconds(self, request: web.Request) -> float:
        return http.timeout_of(request, default=self._settings.request_timeout, most=self._settings.longest_timeout)

    # Lookup

    async def _lookup(self, request: web.Request) -> web.Response:
        """Where to upload, with a ticket: as JSON, as one line of text, or as ``PORT/?ticket=…``."""
        subject = self._authenticate(request)
        uses = http.whole_number(request, "n", default=1, most=description.MOST_USES)
        style = request.query.get("format", "text" if heads.wants_text(request) else "json")
        if style not in ("json", "text", "port"):
            raise InvalidOption("format is json, text or port.")
        choice, ticket, uses = await self._grant(request, subject, uses)
        base = _public_url(choice)
        if style == "port":
            port = urlsplit(base).port or (443 if base.startswith("https://") else 80)
            return web.Response(text=f"{port}/?ticket={ticket}\n")
        if style == "text":
            return web.Response(text=f"{base}/predict?ticket={ticket}\n")
        model, _, version = choice.key.rpartition("@")
        return http.json_response(
            Lookup(
                worker=choice.name,
                incarnation=choice.worker.incarnation,
                model=model,
                version=version,
                url=f"{base}/predict",
                ticket=ticket,
                uses=uses,
                expires_in=self._settings.ticket_lifetime,
                max_bytes=self._settings.max_body_bytes,
                expected_wait=round(choice.expected_wait, 3),
            )
        )

    async def _grant(self, request: web.Request, subject: str, uses: int) -> tuple[Choice, str, int]:
        """A worker, and a ticket of at most ``uses`` for it: fewer when it has little room left for others."""
        wish = self._wish(request, seconds=self._seconds(request), public=True)
        try:
            with self._fleet.refusals.noted(wish.model):
                choice = await self._fleet.await_choice(wish, self._settings.patience)
        except ShoalError as error:
            self._metrics.lookups.labels("", error.code).inc()
            raise
        request[http.MODEL] = choice.key  # never what the caller wrote: it becomes a label
        request[access.WORKER], request[access.WAY] = choice.name, "direct"
        uses = min(uses, max(1, int(choice.room * _MOST_OF_ROOM)))
        choice.worker.reserve(choice.key, uses)
        self._metrics.lookups.labels(choice.key, "ok").inc()
        ticket = self._signer.sign(
            audience=choice.worker.incarnation,
            model=choice.key,
            subject=subject,
            max_bytes=self._settings.max_body_bytes,
            uses=uses,
            lifetime=self._settings.ticket_lifetime,
            gateway=self._name,
            priority=wish.priority,
        )
        return choice, ticket, uses

    # Proxy

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        subject = self._authenticate(request)
        if http.switch(request, "redirect"):
            return await self._redirect(request, subject)
        request[access.WAY], began = "proxied", time.perf_counter()
        settings = self._settings
        http.check_head(request, settings.max_body_bytes)
        seconds = self._seconds(request)
        deadline = time.monotonic() + seconds
        wish = self._wish(request, seconds=seconds, public=False)
        with self._fleet.refusals.noted(wish.model):
            await self._fleet.await_open(wish, min(settings.patience, seconds))
        http.welcome_body(request)
        arrival = min(deadline, time.monotonic() + settings.upload_timeout)
        try:
            async with self._replay.body(request, limit=settings.max_body_bytes, deadline=arrival) as body:
                arrived = time.perf_counter()
                if self._fleet.caches(wish.model) and not request.content_type.startswith("multipart/"):
                    wish = replace(wish, digest=await digest(body))
                with self._fleet.refusals.noted(wish.model):
                    answer = await self._deliver(request, body, wish, deadline)
        finally:
            self._metrics.bytes.labels("in").inc(request.content.total_bytes)
            self.events.proxied_bytes += request.content.total_bytes
        self._metrics.bytes.labels("out").inc(len(answer.body))
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._fleet.refusals.add(wish.model)
        headers = CIMultiDict((name, answer.headers[name]) for name in _PASSED_ON if name in answer.headers)
        own = f"upload;dur={(arrived - began) * 1000:.2f}, gateway;dur={(time.perf_counter() - began) * 1000:.2f}"
        headers["Server-Timing"] = ", ".join(filter(None, (headers.get("Server-Timing"), own)))
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _deliver(self, request: web.Request, body: Body, wish: Wish, deadline: float) -> Answer:
        """Send the body to a worker and, when that one fails, to another: the only layer that retries.

        A worker that refused has executed nothing and does not count, and is not asked again; of those that
        may have executed it, there are at most two. A body that streams is sent once.
        """
        uploads = heads.uploads(request, most=MOST_UPLOADS)
        failure: ShoalError = BadGateway()
        refusal: Answer | None = None
        for _ in range(_MOST_TRIES):
            remaining = max(0.0, deadline - time.monotonic())
            if wish.seconds < float("inf"):
                wish = replace(wish, seconds=remaining)
            try:  # who was accepted once waits for another worker as long as there is time
                patience = remaining if uploads else min(self._settings.patience, remaining)
                choice = await self._fleet.await_choice(wish, patience)
            except ShoalError as error:
                error.uploads = uploads
                raise
            if refusal is not None and choice.worker.incarnation in wish.exclude:
                return refusal  # everybody has refused
            request[http.MODEL], request[access.WORKER] = choice.key, choice.name
            wish = replace(wish, exclude=wish.exclude | {choice.worker.incarnation})
            try:
                answer = await self._send(request, choice, body, deadline)
            except TimeoutError:
                raise DeadlineExceeded from None
            except NotSent as error:
                self._broke(choice, "worker not reached", error)
                failure = BadGateway()
            except Broken as error:
                if isinstance(body, Stream) and body.failure is not None:
                    raise body.failure from None
                self._broke(choice, "connection to worker broke", error)
                uploads += 1
                failure = BadGateway("The worker went away before it answered.")
            else:
                choice.worker.answered()
                if answer.status not in _RETRYABLE_STATUS:
                    return answer
                refusal = answer
            if uploads >= MOST_UPLOADS or not isinstance(body, bytes):
                break
            self._metrics.retries.labels(failure.code if refusal is None else "refused").inc()
        if refusal is not None:
            return refusal
        raise failure

    def _broke(self, choice: Choice, what: str, error: Exception) -> None:
        log.warning(what, extra={"worker": choice.name, "error": str(error)})
        if choice.worker.broke():
            self._metrics.ejections.inc()

    async def _send(self, request: web.Request, choice: Choice, body: Body, deadline: float) -> Answer:
        """Raises ``NotSent``, ``Broken`` (also when the worker falls silent), or ``TimeoutError`` at ``deadline``."""
        remaining = int((deadline - time.monotonic()) * 1000)
        if remaining <= 0:
            raise TimeoutError
        ticket = self._tickets.ticket(choice.worker, choice.key, choice.priority)
        headers = heads.to_worker(request, ticket, remaining)
        url = f"{choice.worker.member.internal_url}{heads.path_at_worker(request, request.rel_url.raw_path)}"
        choice.worker.reserve(choice.key, 1)
        with choice.worker.sending() as scope, self._tracer.span("proxy", "client"):
            self._tracer.note(shoal_worker=choice.name)
            async with unless_silent(scope):
                answer = await self._proxy.send(url, body, headers | self._tracer.headers(), deadline=deadline)
        if report := answer.headers.get(http.LOAD):
            choice.worker.settle(decode_report(report))
        return answer

    async def _redirect(self, request: web.Request, subject: str) -> web.Response:
        choice, ticket, _ = await self._grant(request, subject, 1)
        location = f"{_public_url(choice)}{request.path}?{urlencode([('ticket', ticket), *heads.options(request)])}"
        return web.Response(status=307, headers={"Location": location})

    # State

    async def _live(self, request: web.Request) -> web.Response:
        return http.json_response(Live(True))

    async def _ready(self, request: web.Request) -> web.Response:
        if self.draining:
            raise Draining("This gateway is draining.")
        return http.json_response(Ready(True))

    async def _status(self, request: web.Request) -> web.Response:
        """Every worker with its state and the load of its models, and what is published of each model."""
        self._authenticate(request)
        return http.json_response(msgspec.convert(state.document(self._name, self._fleet), Status))

    async def _scale_signal(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return self._scale.answer(request, self._fleet)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self.events.listen(request, lambda: self._holder(request))

    async def _drain(self, request: web.Request) -> web.Response:
        holder = self._holder(request)
        return await operators.drain(request, holder, fleet=self._fleet, proxy=self._proxy, signer=self._signer)

    async def _worker(self, request: web.Request) -> web.Response:
        """The state of one worker, for a client that waits for it: ``gone`` when it is not there any more."""
        self._authenticate(request)
        return http.json_response(OneWorker(await self._fleet.state_of(request.match_info["incarnation"])))

    async def _exposition(self, request: web.Request) -> web.Response:
        expiry = metrics.CertificateExpiry(self._certificates)
        text = metrics.exposition(self._registry, expiry)
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _targets(self, request: web.Request) -> web.Response:
        """What Prometheus is to scrape, as its discovery by HTTP reads it: this gateway and every worker it knows."""
        own = targets.group(str(request.url.origin()), service="gateway", instance=self._name, zone=self._settings.zone)
        everyone = [*(worker.member for worker in self._fleet), *self._fleet.elsewhere.values()]
        members = sorted(everyone, key=lambda member: member.name)
        return http.json_response([own, *map(targets.of, members)])


def _public_url(choice: Choice) -> str:
    url = choice.worker.public_url
    assert url is not None
    return url.rstrip("/")
