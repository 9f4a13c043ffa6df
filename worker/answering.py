"""What a front says to every request that was answered, in whatever dialect; or the picture with its boxes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import web

from shoal import http
from shoal.metrics import FrontMetrics
from worker.asking import Wanted
from worker.submissions import Answered
from worker.timings import Timings

_LARGE = 64 * 1024  # bytes of a network's outputs


def measure(answers: Sequence[Answered], wanted: Wanted, timings: Timings, metrics: FrontMetrics) -> None:
    """Add the stages that were elsewhere, and count. Of many images the slowest counts, and kept answers do not."""
    executed = [answered.reply for answered in answers if answered.cache != "hit"]
    key = wanted.card.key
    if executed:
        timings.mark("wait")
        timings.stages["queue"] = max(reply.queue_ms for reply in executed)
        timings.stages["inference"] = max(reply.inference_ms for reply in executed)
    for stage, ms in timings.stages.items():
        metrics.stage.labels(key, stage).observe(ms / 1000)
    looked = timings.stages.get("cache", 0.0) / 1000
    for answered in answers:
        match answered.cache:
            case "hit":
                metrics.cache_hits.labels(key).inc()
                metrics.cache_hit_seconds.labels(key).inc(looked)
            case "miss":
                metrics.cache_misses.labels(key).inc()
                metrics.cache_miss_seconds.labels(key).inc(looked)
            case "shared":
                metrics.shared.labels(key).inc()


def measured(predict: http.Handler, metrics: FrontMetrics) -> http.Handler:
    """The handler of a prediction, with its results and their times counted by model."""

    async def handler(request: web.Request) -> web.StreamResponse:
        began, result = time.perf_counter(), "failure"
        try:
            response = await predict(request)
            result = "accepted" if response.status == HTTPStatus.ACCEPTED else "success"
            return response
        finally:
            if key := request.get(http.MODEL):
                metrics.model_requests.labels(key, result).inc()
                metrics.model_request_seconds.labels(key, result).inc(time.perf_counter() - began)
                if result == "success":
                    metrics.last_answer.labels(key).set(time.time())

    return handler


def is_large(answers: Sequence[Answered]) -> bool:
    """Whether writing them takes longer than a thread to wake."""
    return sum(len(output.data) for answered in answers for output in answered.reply.outputs.values()) > _LARGE


def headers(answers: Sequence[Answered], timings: Timings) -> dict[str, str]:
    return {"Server-Timing": timings.header(), http.CACHE: ", ".join(answered.cache for answered in answers)}


def picture(jpeg: bytes, wanted: Wanted, worker: str, said: dict[str, str]) -> web.Response:
    """The picture with its boxes, and what the document would say of where it comes from."""
    about = dict(zip(http.PROVENANCE, (wanted.card.model, wanted.card.version, worker), strict=True))
    return web.Response(body=jpeg, content_type="image/jpeg", headers={**about, **said})
