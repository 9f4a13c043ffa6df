"""Traces by OpenTelemetry, which only this file imports: not at all, unless an endpoint is named and it is installed.

Everything but the endpoint is configured as OpenTelemetry does it, in the environment (``OTEL_TRACES_SAMPLER``, …).
What is passed on is a W3C ``traceparent``: of a client to the gateway, from there to a front, and with each job to the
model process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Literal

from shoal.version import VERSION

log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADERS = ("traceparent", "tracestate")

_ENDPOINTS = (ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER = "opentelemetry"

Value = str | int | float | bool
Kind = Literal["server", "client", "internal"]


class Tracer:
    """The one that is off: its spans are nothing."""

    is_on = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def span(
        self, name: str, kind: Kind = "internal", *, carried: Mapping[str, str] | None = None
    ) -> AbstractContextManager[None]:
        """A span around the body, child of what the headers ``carried``, or else of the current one."""
        return nullcontext()

    def note(self, *, name: str = "", failed: bool = False, **attributes: Value) -> None:
        """Say more about the current span; ``name`` replaces its own."""

    def headers(self) -> dict[str, str]:
        """What carries the current span to another process."""
        return {}

    def traceparent(self) -> str:
        """The current span in one word; empty when there is none that is recorded."""
        return self.headers().get("traceparent", "")

    def record(
        self, name: str, seconds: float, *, ago: float = 0.0, parent: str = "", links: Sequence[str] = (), **more: Value
    ) -> None:
        """A span that ended ``ago`` seconds before now, after ``seconds``; child of ``parent`` or the current one."""


OFF = Tracer()


def configure(endpoint: str) -> None:
    """Send traces there, from this process and its children; an empty one leaves it to the environment."""
    if endpoint:
        os.environ[ENDPOINT] = endpoint


@asynccontextmanager
async def tracing(service: str, instance: str) -> AsyncIterator[Tracer]:
    """The tracer of a process of ``service`` (gateway, front, model). What it has not sent yet is sent at the end."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        yield OFF
        return
    try:
        tracer = _OpenTelemetry(service, instance)
    except ImportError as error:
        log.warning("no traces: pip install 'shoal[traces]'", extra={"error": str(error)})
        yield OFF
        return
    try:
        yield tracer
    finally:
        await asyncio.to_thread(tracer.close)


class _OpenTelemetry(Tracer):
    """The one that is on."""

    is_on = True

    def __init__(self, service: str, instance: str) -> None:
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        logging.getLogger(_EXPORTER).setLevel(logging.ERROR)  # that a collector is away is not worth a line each second
        about = {"service.name": f"shoal-{service}", "service.instance.id": instance, "service.version": VERSION}
        named = os.environ.get("OTEL_SERVICE_NAME")
        self._provider = TracerProvider(
            resource=Resource.create(about | ({"service.name": named} if named else {})), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("shoal", VERSION)
        self._trace, self._context = trace, context
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        self._provider.shutdown()

    @contextmanager
    def span(self, name: str, kind: Kind = "internal", *, carried: Mapping[str, str] | None = None) -> Iterator[None]:
        parent = None if carried is None else self._carried(carried)
        with self._tracer.start_as_current_span(
            name, parent, kind=self._trace.SpanKind[kind.upper()], record_exception=False
        ):
            yield

    def _carried(self, headers: Mapping[str, str]) -> Any:
        found = {name: headers[name] for name in HEADERS if name in headers}
        return self._propagator.extract(found, self._context.Context())

    def note(self, *, name: str = "", failed: bool = False, **attributes: Value) -> None:
        span = self._trace.get_current_span()
        if name:
            span.update_name(name)
        if failed:
            span.set_status(self._trace.StatusCode.ERROR)
        span.set_attributes(_dotted(attributes))

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def record(
        self, name: str, seconds: float, *, ago: float = 0.0, parent: str = "", links: Sequence[str] = (), **more: Value
    ) -> None:
        ended = time.time_ns() - int(ago * 1e9)
        linked = [self._trace.get_current_span(self._carried({"traceparent": link})) for link in links]
        span = self._tracer.start_span(
            name,
            self._carried({"traceparent": parent}) if parent else None,
            links=[self._trace.Link(one.get_span_context()) for one in linked],
            attributes=_dotted(more),
            start_time=ended - int(seconds * 1e9),
        )
        span.end(ended)


def _dotted(attributes: Mapping[str, Value]) -> dict[str, Value]:
    """OpenTelemetry's names from Python's: ``http_route`` is ``http.route``, ``batch__size`` is ``batch_size``."""
    return {name.replace("__", " ").replace("_", ".").replace(" ", "_"): value for name, value in attributes.items()}
