"""What is said of an asynchronous job: its status, its result, and the body of its webhook."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shoal.errors import DeadlineExceeded, JobCancelled, ShoalError, from_code
from worker.job_records import Record
from worker.prediction_document import prediction_document
from worker.submissions import Answered


def path_of(id: str) -> str:
    return f"/jobs/{id}"


def status_of(record: Record) -> dict[str, Any]:
    """The status as JSON-ready data."""
    id = record.head.id
    said: dict[str, Any] = {
        "id": id,
        "status": record.status,
        "url": path_of(id),
        "result": f"{path_of(id)}/result",
        "model": record.head.about["model"],
        "version": record.head.about["version"],
        "worker": record.head.about["worker"],
        "request_id": record.head.about["request_id"],
        "created": _time(record.created),
        "deadline": _time(record.deadline),
        "ended": None if record.ended is None else _time(record.ended),
        "expires_in": round(max(0.0, record.expires_in), 3),
    }
    if record.status == "failed":
        said["error"] = {"code": failure_of(record).code, "message": failure_of(record).message}
    if record.head.webhook:
        said["webhook"] = {
            "status": record.delivery or ("none" if record.status == "cancelled" else "waiting"),
            "attempts": record.attempts,
            "last_answer": record.said or None,
            "next_attempt_in": None if record.next_attempt_in is None else round(record.next_attempt_in, 3),
        }
    return said


def failure_of(record: Record) -> ShoalError:
    """The error of a job that failed; without one it was late."""
    if record.failure is None:
        return DeadlineExceeded()
    return from_code(record.failure.code, record.failure.message)


def result_of(record: Record) -> dict[str, Any]:
    """What the same prediction would have answered at once. Raises its error, or ``JobCancelled``."""
    if record.status == "cancelled":
        raise JobCancelled
    if record.status == "failed" or record.ended is None:
        raise failure_of(record)
    stages = {
        **record.head.stages,
        "wait": (record.ended - record.created) * 1000,
        "queue": max(reply.queue_ms for reply in record.replies),
        "inference": max(reply.inference_ms for reply in record.replies),
    }
    return prediction_document([Answered(reply, "off") for reply in record.replies], record.head.about, stages)


def webhook_of(record: Record) -> dict[str, Any]:
    """The body of its webhook, the same at every attempt: ``job.done`` or ``job.failed``."""
    said = {"id": record.head.id, "status": record.status, "url": path_of(record.head.id)}
    try:
        data = {**said, "result": result_of(record)}
    except ShoalError as error:
        data = {**said, "result": error.body(record.head.about["request_id"])}
    return {
        "type": f"job.{record.status}",
        "timestamp": _time(record.created if record.ended is None else record.ended),
        "data": data,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
