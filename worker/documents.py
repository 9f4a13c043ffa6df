"""The document that answers a prediction: the same at once, and for a job that is asked about later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.submissions import Answered


def document(answers: Sequence[Answered], about: Mapping[str, str], stages: Mapping[str, float]) -> dict[str, Any]:
    """The answer as JSON-ready data; of several images a list. ``stages`` are milliseconds."""
    times = {"timings": {stage: round(ms, 2) for stage, ms in stages.items()}}
    if len(answers) > 1:
        each = [{**(answered.reply.answer or {}), **_provenance(answered)} for answered in answers]
        return {"success": True, "answers": each, **about, **times}
    return {"success": True, **(answers[0].reply.answer or {}), **about, **_provenance(answers[0]), **times}


def _provenance(answered: Answered) -> dict[str, Any]:
    """Of a kept answer: no attempt, and no batch."""
    if answered.cache == "hit":
        return {"attempt": 0, "batch_size": 0, "cache": "hit"}
    return {"attempt": answered.reply.attempt, "batch_size": answered.reply.batch_size, "cache": answered.cache}
