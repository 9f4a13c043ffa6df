"""The metric catalogue: every metric that Shoal exports, with its name, labels and meaning, in one place."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from shoal import metric_files
from shoal.tls import Certificate
from shoal.version import VERSION

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The folder where the processes of one node share their counters; set before the first of them starts."""


class HttpMetrics:
    """What a gateway or a front counts of its requests. ``code`` is ``ok`` or the error's code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter("shoal_requests", "Requests that ended.", ["path", "model", "code"], registry=registry)
        self.duration = Histogram(
            "shoal_request_duration_seconds", "Time to answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.in_progress = Gauge(
            "shoal_requests_in_progress", "Requests under way.", registry=registry, multiprocess_mode="livesum"
        )


class GatewayMetrics(HttpMetrics):
    """A gateway's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.lookups = Counter("shoal_lookups", "Lookups by result.", ["model", "result"], registry=registry)
        self.forwards = Counter(
            "shoal_forwards",
            "Questions of nginx where an upload goes, by result; once more after each failure.",
            ["model", "result"],
            registry=registry,
        )
        self.bytes = Counter(
            "shoal_gateway_bytes",
            "Bytes of bodies that went through this gateway: in of requests, out of their answers.",
            ["direction"],
            registry=registry,
        )
        self.retries = Counter(
            "shoal_proxy_retries", "Proxied requests sent to a second worker.", ["code"], registry=registry
        )
        self.ejections = Counter(
            "shoal_ejections", "Workers taken out because requests to them broke.", registry=registry
        )
        self.panics = Counter(
            "shoal_panics", "Choices among ejected workers too, because too many were out.", registry=registry
        )
        self.workers = Gauge("shoal_directory_workers", "Workers by state.", ["state"], registry=registry)


class FrontMetrics(HttpMetrics):
    """A front's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.stage = Histogram(
            "shoal_stage_duration_seconds",
            "Time in one stage: receive, fetch, read, cache, decode, wait, queue, inference, render, answer.",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.model_requests = Counter(
            "shoal_model_requests",
            "Requests for predictions by their result: success, failure, or accepted as a job.",
            ["model", "result"],
            registry=registry,
        )
        self.model_request_seconds = Counter(
            "shoal_model_request_seconds",
            "Time to answer requests for predictions, by their result.",
            ["model", "result"],
            registry=registry,
        )
        self.last_answer = Gauge(
            "shoal_last_answer_timestamp_seconds",
            "When a request for predictions was last answered.",
            ["model"],
            registry=registry,
            multiprocess_mode="max",
        )
        self.cache_hit_seconds = Counter(
            "shoal_cache_hit_seconds", "Time to find images that were in the cache.", ["model"], registry=registry
        )
        self.cache_miss_seconds = Counter(
            "shoal_cache_miss_seconds", "Time to find that images were not in the cache.", ["model"], registry=registry
        )
        self.cancelled = Counter(
            "shoal_cancelled", "Jobs that nobody waited for any more, by where they were.", ["stage"], registry=registry
        )
        self.wasted = Counter(
            "shoal_wasted_compute_seconds", "Execution time of images that nobody waited for.", registry=registry
        )
        self.resubmitted = Counter(
            "shoal_resubmitted", "Jobs submitted again after a loss of Redis.", registry=registry
        )
        self.cache_hits = Counter("shoal_cache_hits", "Images answered from the cache.", ["model"], registry=registry)
        self.cache_misses = Counter(
            "shoal_cache_misses", "Images that were looked for in the cache and executed.", ["model"], registry=registry
        )
        self.shared = Counter(
            "shoal_shared", "Images answered by the execution of an equal one.", ["model"], registry=registry
        )
        self.uploaded = Counter(
            "shoal_upload_bytes",
            "Bytes of request bodies, by the way they came: direct from clients, or proxied by a gateway or nginx.",
            ["way"],
            registry=registry,
        )


class CourierMetrics:
    """A courier's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Counter(
            "shoal_jobs",
            "Asynchronous jobs by the status they got: queued, done, failed, cancelled.",
            ["model", "status"],
            registry=registry,
        )
        self.webhooks = Counter(
            "shoal_webhook_attempts",
            "Attempts to send a webhook: delivered, retried, failed (for good).",
            ["outcome"],
            registry=registry,
        )
        self.queued = Gauge(
            "shoal_jobs_queued",
            "Asynchronous jobs without an end.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.waiting = Gauge(
            "shoal_webhooks_waiting", "Webhooks to be sent.", registry=registry, multiprocess_mode="livemostrecent"
        )


class ModelMetrics:
    """A model process's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.images = Counter("shoal_images", "Images executed.", ["model"], registry=registry)
        self.batch_size = Histogram(
            "shoal_batch_size", "Images in one execution.", ["model"], buckets=_BATCHES, registry=registry
        )
        self.execution = Histogram(
            "shoal_execution_duration_seconds", "Time of one execution.", ["model"], buckets=_SECONDS, registry=registry
        )
        self.executions = Counter(
            "shoal_executions", "Executions by their number of images.", ["model", "size"], registry=registry
        )
        self.execution_seconds = Counter(
            "shoal_execution_seconds",
            "Time of executions by their number of images.",
            ["model", "size"],
            registry=registry,
        )
        self.expired = Counter(
            "shoal_expired", "Jobs dropped before execution: past their deadline.", ["model"], registry=registry
        )
        self.failed = Counter("shoal_failed", "Images on which the model raised.", ["model"], registry=registry)


class SupervisorMetrics:
    """A supervisor's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deaths = Counter("shoal_process_deaths", "Children that ended unasked.", ["role"], registry=registry)
        self.reclaimed = Counter(
            "shoal_reclaimed", "Jobs taken back from dead model processes.", ["model"], registry=registry
        )
        self.hung = Counter(
            "shoal_hung_processes", "Children killed because they had stopped working.", ["role"], registry=registry
        )
        for role in ("courier", "front", "model", "redis"):  # from 0, so that the first one is an increase
            self.deaths.labels(role)
            self.hung.labels(role)
        self.abandoned = Counter(
            "shoal_abandoned", "Jobs dropped before execution because their front died.", ["model"], registry=registry
        )
        self.quarantined = Counter(
            "shoal_quarantined",
            "Images refused from then on: they killed their model process.",
            ["model"],
            registry=registry,
        )


class NodeMetrics(Collector):
    """How a node is at the moment of a scrape. What is not there any more has no sample."""

    def __init__(self) -> None:
        self.draining = GaugeMetricFamily("shoal_draining", "1 while the instance drains.")
        self.ready = GaugeMetricFamily("shoal_model_ready", "1 where the model version is ready.", labels=["model"])
        self.processes = GaugeMetricFamily(
            "shoal_model_processes", "Processes of the model version that are ready.", labels=["model"]
        )
        self.cost = GaugeMetricFamily(
            "shoal_image_cost_seconds", "Measured time that an image takes the node, in a full batch.", labels=["model"]
        )
        self.depth = GaugeMetricFamily(
            "shoal_queue_depth", "Jobs that wait or are being executed.", labels=["model", "priority"]
        )
        self.capacity = GaugeMetricFamily(
            "shoal_queue_capacity", "Most jobs that may wait or be executed.", labels=["model"]
        )
        self.cache_bytes = GaugeMetricFamily("shoal_cache_bytes", "Bytes of kept answers, as the cache counts them.")
        self.running = GaugeMetricFamily("shoal_processes", "Processes of the node.", labels=["role"])
        self.memory = GaugeMetricFamily(
            "shoal_resident_memory_bytes", "Memory of the node's processes, shared pages in each.", labels=["role"]
        )

    def collect(self) -> Iterable[Metric]:
        return [*vars(self).values()]


class CertificateExpiry(Collector):
    """Until when the certificates of a process's listeners are good."""

    def __init__(self, certificates: Iterable[Certificate] = ()) -> None:
        self._certificates = certificates

    def collect(self) -> Iterable[Metric]:
        expiry = GaugeMetricFamily(
            "shoal_certificate_expiry_timestamp_seconds",
            "When the certificate of the listener (public or internal) expires.",
            labels=["listener"],
        )
        for certificate in self._certificates:
            expiry.add_metric([certificate.listener], certificate.expires)
        return [expiry]


class BuildInfo(Collector):
    """The version that runs."""

    def collect(self) -> Iterable[Metric]:
        return [InfoMetricFamily("shoal_build", "The version that runs, as the label.", {"version": VERSION})]


class _Shared(Collector):
    """What all processes of a node have counted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        return metric_files.read(self._folder)


def watch_process(registry: CollectorRegistry) -> None:
    """Add the memory, processor time and files of this one process, by the library's own names (``process_...``)."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)


def bury(pid: int) -> None:
    """Keep the counts of a process that has ended, in the file of all the dead, and forget the rest of it."""
    if _DIRECTORY not in os.environ:
        return
    try:
        metric_files.bury(Path(os.environ[_DIRECTORY]), pid)
    except (OSError, RuntimeError) as error:  # nothing is lost: the next burial takes it along
        log.warning("the counts of a dead process are not added up yet", extra={"pid": pid, "error": str(error)})


def exposition(registry: CollectorRegistry, *more: Collector) -> bytes:
    """The text of ``/metrics``: of all processes of the node where they share, else of this one; and ``more``."""
    shown = CollectorRegistry()
    shown.register(_Shared(Path(os.environ[_DIRECTORY])) if _DIRECTORY in os.environ else registry)
    for collector in (BuildInfo(), *more):
        shown.register(collector)
    return generate_latest(shown)


def samples(registry: CollectorRegistry) -> list[tuple[str, dict[str, str], float]]:
    """The name, the labels and the value of everything that ``/metrics`` has."""
    families = text_string_to_metric_families(exposition(registry).decode())
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
