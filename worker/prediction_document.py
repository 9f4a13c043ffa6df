"""The document that answers a prediction: the same at once, and for a job that is asked about later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from shoal.documents import Provenance, Source
from worker.submissions import Answered


def prediction_document(
    answers: Sequence[Answered], about: Mapping[str, str], stages: Mapping[str, float]
) -> dict[str, Any]:
    """The answer as JSON-ready data; of several images a list. ``stages`` are milliseconds."""
    source = Source(success=True, timings={stage: round(ms, 2) for stage, ms in stages.items()}, **about)
    each = [{**(answered.reply.answer or {}), **to_builtins(_provenance(answered))} for answered in answers]
    return {**(each[0] if len(each) == 1 else {"answers": each}), **to_builtins(source)}


def _provenance(answered: Answered) -> Provenance:
    """Of a kept answer: no attempt, and no batch."""
    if answered.cache == "hit":
        return Provenance(attempt=0, batch_size=0, cache="hit")
    reply = answered.reply
    return Provenance(attempt=reply.attempt, batch_size=reply.batch_size, cache=answered.cache)
