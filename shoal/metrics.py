"""The metric catalogue: every metric that Shoal exports, with its name, labels and meaning, in one place."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families

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
        self.bytes = Counter("shoal_gateway_bytes", "Bytes of request bodies.", ["path"], registry=registry)
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
            "Time an image spent in one stage: receive, read, cache, decode, wait, queue, inference, render, answer.",
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
        self.cache_bytes = Gauge(
            "shoal_cache_bytes",
            "Bytes of kept answers, as the cache counts them.",
            registry=registry,
            multiprocess_mode="livemostrecent",
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
        self.abandoned = Counter(
            "shoal_abandoned", "Jobs dropped before execution because their front died.", ["model"], registry=registry
        )
        self.quarantined = Counter(
            "shoal_quarantined",
            "Images refused from then on: they killed their model process.",
            ["model"],
            registry=registry,
        )
        self.model_ready = Gauge(
            "shoal_model_ready",
            "1 where the model version is ready.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )


def bury(pid: int) -> None:
    """Forget the live gauges of a process that has ended; its counters stay."""
    if _DIRECTORY in os.environ:
        mark_process_dead(pid)


def exposition(registry: CollectorRegistry) -> bytes:
    """The text of ``/metrics``: of all processes of the node where they share, else of this one."""
    if _DIRECTORY in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry)


def samples(registry: CollectorRegistry) -> list[tuple[str, dict[str, str], float]]:
    """The name, the labels and the value of everything that ``/metrics`` has."""
    families = text_string_to_metric_families(exposition(registry).decode())
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
