"""Asynchronous jobs: how one is, what came of it, and that it is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shoal.descriptions.native import IMAGE_ERRORS
from shoal.documents import Count, ManyPredicted, Predicted, Quantity
from shoal.errors import JobCancelled, NotReady, ShoalError, UnknownJob
from shoal.openapi import JSON, Answer, Operation, Parameter

__all__ = ["ACCEPTED", "JobStatus", "operations"]

Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


class JobError(msgspec.Struct, frozen=True):
    """Why a job failed, by its stable code."""

    code: str
    message: str


class Delivery(msgspec.Struct, frozen=True):
    """How far a job's webhook is. ``last_answer`` is a status, or a word for what went wrong."""

    status: Literal["waiting", "delivered", "failed", "none"]
    attempts: Count
    last_answer: str | None
    next_attempt_in: Quantity | None


class JobStatus(msgspec.Struct, frozen=True):
    """How a job is. ``expires_in`` is the seconds until it is forgotten, or the most that it may be."""

    id: str
    status: Literal["queued", "done", "failed", "cancelled"]
    url: str
    result: str
    model: str
    version: str
    worker: str
    request_id: str
    created: Time
    deadline: Time
    ended: Time | None
    expires_in: Quantity
    error: JobError | UnsetType = UNSET
    webhook: Delivery | UnsetType = UNSET


_ID = Parameter("id", str, "As the 202 says it.", "path")
_STATUS = Answer("How it is.", {JSON: JobStatus})

ACCEPTED = Answer(
    "With `Prefer: respond-async`: the job was accepted.",
    {JSON: JobStatus},
    {"Location": "Where to ask about it.", "Preference-Applied": "`respond-async`."},
)


def operations(errors: Sequence[type[ShoalError]], credentials: Sequence[str]) -> tuple[Operation, ...]:
    """What may be asked about a job, with the ``errors`` that a gateway or a worker has beyond its own."""
    later = Answer("It has not ended.", {JSON: JobStatus}, {"Location": "Its status.", "Retry-After": "Seconds."})
    whole = Answer("What the prediction would have answered at once.", {JSON: (Predicted, ManyPredicted)})
    own: tuple[type[ShoalError], ...] = (UnknownJob, NotReady, *errors)
    return (
        Operation(
            "GET",
            "/jobs/{id}",
            "How a job is",
            "jobs",
            {200: _STATUS},
            parameters=(_ID,),
            errors=own,
            credentials=credentials,
        ),
        Operation(
            "GET",
            "/jobs/{id}/result",
            "What came of a job",
            "jobs",
            {200: whole, 202: later},
            about="A job that failed is answered with its error.",
            parameters=(_ID,),
            errors=(*own, JobCancelled, *IMAGE_ERRORS),
            credentials=credentials,
        ),
        Operation(
            "DELETE",
            "/jobs/{id}",
            "Cancel a job",
            "jobs",
            {200: Answer("How it is now: one that had ended stays as it was.", {JSON: JobStatus})},
            parameters=(_ID,),
            errors=own,
            credentials=credentials,
        ),
    )
