"""What a front says to a request that was answered: JSON in one of two shapes, or the picture with its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from shoal import http, logs
from shoal.metrics import FrontMetrics
from worker.asking import Wanted
from worker.submissions import Answered
from worker.timings import Timings


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
    for answered in answers:
        match answered.cache:
            case "hit":
                metrics.cache_hits.labels(key).inc()
            case "miss":
                metrics.cache_misses.labels(key).inc()
            case "shared":
                metrics.shared.labels(key).inc()


def document(answers: Sequence[Answered], wanted: Wanted, timings: Timings, *, worker: str) -> object:
    """The answer as JSON-ready data, in the shape that was asked for; of several images a list."""
    many = len(answers) > 1
    if wanted.shape == "pairs":
        lists = [_pairs(answered.reply.answer or {}) for answered in answers]
        return lists if many else lists[0]
    card = wanted.card
    about = {
        "model": card.model,
        "version": card.version,
        "digest": card.digest,
        "worker": worker,
        "request_id": logs.request_id.get(),
    }
    times = {"timings": {stage: round(ms, 2) for stage, ms in timings.stages.items()}}
    if many:
        each = [{**(answered.reply.answer or {}), **_provenance(answered)} for answered in answers]
        return {"success": True, "answers": each, **about, **times}
    return {"success": True, **(answers[0].reply.answer or {}), **about, **_provenance(answers[0]), **times}


def headers(answers: Sequence[Answered], timings: Timings) -> dict[str, str]:
    return {"Server-Timing": timings.header(), http.CACHE: ", ".join(answered.cache for answered in answers)}


def picture(jpeg: bytes, wanted: Wanted, worker: str, said: dict[str, str]) -> web.Response:
    """The picture with its boxes, and what the document would say of where it comes from."""
    about = dict(zip(http.PROVENANCE, (wanted.card.model, wanted.card.version, worker), strict=True))
    return web.Response(body=jpeg, content_type="image/jpeg", headers={**about, **said})


def _provenance(answered: Answered) -> dict[str, Any]:
    """Of a kept answer: no attempt, and no batch."""
    if answered.cache == "hit":
        return {"attempt": 0, "batch_size": 0, "cache": "hit"}
    return {"attempt": answered.reply.attempt, "batch_size": answered.reply.batch_size, "cache": answered.cache}


def _pairs(answer: dict[str, Any]) -> list[list[Any]]:
    """The second origin system's shape: a list of [label, score]."""
    return [[p["label"], p["probability"]] for p in answer["predictions"]]
