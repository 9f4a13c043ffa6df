"""Asynchronous jobs: what asks for one, and what may be asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shoal.documents import Count, ManyPredicted, Predicted, Quantity
from shoal.errors import DeadlineExceeded, JobCancelled, ModelCrashed, ModelFailed, NotReady, ShoalError, UnknownJob
from shoal.openapi import JSON, Answer, Operation, Parameter

__all__ = ["ACCEPTED", "ASKING", "operations"]


class JobFailure(msgspec.Struct, frozen=True):
    """Why a job failed."""

    code: str
    message: str


class JobWebhook(msgspec.Struct, frozen=True):
    """How the webhook's delivery is."""

    status: Literal["waiting", "delivered", "failed", "none"]
    attempts: Count
    last_answer: str | None
    next_attempt_in: Quantity | None


class Job(msgspec.Struct, frozen=True):
    """How a job is. Instants are in UTC; ``expires_in`` is in seconds."""

    id: str
    status: Literal["queued", "done", "failed", "cancelled"]
    url: str
    result: str
    model: str
    version: str
    worker: str
    request_id: str
    created: str
    deadline: str
    ended: str | None
    expires_in: Quantity
    error: JobFailure | UnsetType = UNSET
    webhook: JobWebhook | UnsetType = UNSET


PREFER = Parameter("Prefer", str, "`respond-async`: the answer is fetched later.", "header", example="respond-async")
ASKING = (
    PREFER,
    Parameter("Shoal-Webhook", str, "Where the answer to such a request is brought.", "header"),
    Parameter("webhook", str, "The same, in the query."),
)
_HEADERS = {"Location": "Where the job is.", "Preference-Applied": "`respond-async`."}
ACCEPTED = Answer("The job, with `Prefer: respond-async`.", {JSON: Job}, _HEADERS)

_ID = Parameter("id", str, "The job's id.", "path")


def operations(
    parameters: Sequence[Parameter], errors: Sequence[type[ShoalError]], credentials: Sequence[str]
) -> tuple[Operation, ...]:
    """All that may be asked about a job, with what a gateway or a worker has beyond what they have in common."""
    common: dict[str, Any] = {"tag": "jobs", "parameters": (_ID, *parameters), "credentials": credentials}
    known: tuple[type[ShoalError], ...] = (UnknownJob, NotReady, *errors)
    status = Answer("How it is.", {JSON: Job})
    failed: tuple[type[ShoalError], ...] = (JobCancelled, ModelFailed, ModelCrashed, DeadlineExceeded)
    later = Answer("It has not ended.", {JSON: Job}, {"Location": "Where the job is.", "Retry-After": "Seconds."})
    result = Answer("What the prediction answers at once.", {JSON: (Predicted, ManyPredicted)})
    return (
        Operation("GET", "/jobs/{id}", "How a job is", answers={200: status}, errors=known, **common),
        Operation(
            "GET",
            "/jobs/{id}/result",
            "What came of a job",
            answers={200: result, 202: later},
            errors=(*known, *failed),
            **common,
        ),
        Operation("DELETE", "/jobs/{id}", "Cancel a job", answers={200: status}, errors=known, **common),
    )
