"""The one error tree: raised on a server, rendered once by its middleware, raised again by the SDK.

::

    ShoalError                       500 internal
    ├── InvalidRequest               400 invalid_request
    │   ├── MissingImage             400 missing_image
    │   ├── EmptyBody                400 empty_body
    │   ├── InvalidOption            400 invalid_option
    │   ├── WrongTask                400 wrong_task
    │   └── InvalidUrl               400 invalid_url
    ├── Unauthorized                 401 unauthorized
    │   ├── MissingKey               401 missing_key
    │   ├── InvalidKey               401 invalid_key
    │   ├── MissingTicket            401 missing_ticket
    │   ├── InvalidTicket            401 invalid_ticket
    │   ├── ExpiredTicket            401 expired_ticket      retryable
    │   └── SpentTicket              401 spent_ticket        retryable
    ├── NotAllowed                   403 not_allowed
    ├── JobsDisabled                 403 jobs_disabled
    ├── UrlDisabled                  403 url_disabled
    ├── UrlNotAllowed                403 url_not_allowed
    ├── UnknownPath                  404 unknown_path
    ├── UnknownModel                 404 unknown_model
    │   └── UnknownLabel             404 unknown_label
    ├── UnknownWorker                404 unknown_worker
    ├── UnknownJob                   404 unknown_job
    ├── MethodNotAllowed             405 method_not_allowed
    ├── UploadTimeout                408 upload_timeout
    ├── JobCancelled                 410 job_cancelled
    ├── BodyTooLarge                 413 body_too_large
    ├── UriTooLong                   414 uri_too_long
    ├── UnsupportedImage             415 unsupported_image
    ├── WrongWorker                  421 wrong_worker        retryable
    ├── InvalidImage                 422 invalid_image
    │   ├── TooManyPixels            422 too_many_pixels
    │   └── Quarantined              422 quarantined
    ├── FetchFailed                  424 fetch_failed
    │   └── FetchTimeout             424 fetch_timeout
    ├── QueueFull                    429 queue_full          retryable
    ├── TooManyListeners             429 too_many_listeners  retryable
    ├── TooManyRequests              429 too_many_requests   retryable
    ├── HeadTooLarge                 431 head_too_large
    ├── ModelFailed                  500 model_failed
    ├── ModelCrashed                 500 model_crashed
    ├── BadGateway                   502 bad_gateway         retryable
    ├── Unavailable                  503 unavailable         retryable
    │   ├── NotReady                 503 not_ready           retryable
    │   ├── Draining                 503 draining            retryable
    │   └── NoWorker                 503 no_worker           retryable
    ├── DeadlineExceeded             504 deadline_exceeded
    └── ConnectionFailed             (client side) connection_failed  retryable
        └── UntrustedServer          (client side) untrusted_server

``retryable`` means that the same request may succeed if it is sent again, to another worker or after
``retry_after`` seconds. A ``code`` never changes its meaning and is never reused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

__all__ = [
    "BadGateway",
    "BodyTooLarge",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Draining",
    "EmptyBody",
    "ExpiredTicket",
    "FetchFailed",
    "FetchTimeout",
    "HeadTooLarge",
    "InvalidImage",
    "InvalidKey",
    "InvalidOption",
    "InvalidRequest",
    "InvalidTicket",
    "InvalidUrl",
    "JobCancelled",
    "JobsDisabled",
    "MethodNotAllowed",
    "MissingImage",
    "MissingKey",
    "MissingTicket",
    "ModelCrashed",
    "ModelFailed",
    "NoWorker",
    "NotAllowed",
    "NotReady",
    "Quarantined",
    "QueueFull",
    "ShoalError",
    "SpentTicket",
    "TooManyListeners",
    "TooManyPixels",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnknownJob",
    "UnknownLabel",
    "UnknownModel",
    "UnknownPath",
    "UnknownWorker",
    "UnsupportedImage",
    "UntrustedServer",
    "UploadTimeout",
    "UriTooLong",
    "UrlDisabled",
    "UrlNotAllowed",
    "WrongTask",
    "WrongWorker",
    "every",
    "from_code",
]


class ShoalError(Exception):
    """Something a caller can act on: a stable ``code``, an HTTP ``status`` and whether to retry.

    ``retry_after`` is in seconds and only set where a wait is known to help.
    ``request_id`` is set on the client, from the answer. ``uploads`` is how many workers may have executed the request
    by then, as far as a gateway knows.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    summary: ClassVar[str] = "Internal error."

    def __init__(
        self, message: str | None = None, *, retry_after: float | None = None, request_id: str | None = None
    ) -> None:
        self.message = message or self.summary
        self.retry_after = retry_after
        self.request_id = request_id
        self.uploads = 0
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code}: {self.message}>"

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body of the answer. ``success`` is there for clients of the origin systems."""
        told = {"code": self.code, "message": self.message, "request_id": request_id, "retryable": self.retryable}
        return {"success": False, "error": told}


class InvalidRequest(ShoalError):
    status, code = 400, "invalid_request"
    summary = "The request is malformed."


class MissingImage(InvalidRequest):
    code = "missing_image"
    summary = "The form has no file field named 'image' or 'data'."


class EmptyBody(InvalidRequest):
    code = "empty_body"
    summary = "The image is empty: send its bytes as the body, or as the form field 'image'."


class InvalidOption(InvalidRequest):
    code = "invalid_option"
    summary = "A query parameter has a value that is not allowed."


class WrongTask(InvalidRequest):
    code = "wrong_task"
    summary = "This path answers classifications only, and the model does something else."


class InvalidUrl(InvalidRequest):
    code = "invalid_url"
    summary = "Not the URL of a picture: http or https, with a host, and without a user's name."


class Unauthorized(ShoalError):
    status, code = 401, "unauthorized"
    summary = "Not authenticated."


class MissingKey(Unauthorized):
    code = "missing_key"
    summary = "No API key: send 'Authorization: Bearer KEY'."


class InvalidKey(Unauthorized):
    code = "invalid_key"
    summary = "This API key is not known here."


class MissingTicket(Unauthorized):
    code = "missing_ticket"
    summary = "No ticket: ask the gateway's /lookup for one."


class InvalidTicket(Unauthorized):
    code = "invalid_ticket"
    summary = "The ticket was altered, or was signed by a key that this worker does not know."


class ExpiredTicket(Unauthorized):
    code, retryable = "expired_ticket", True
    summary = "The ticket has expired: look up again."


class SpentTicket(Unauthorized):
    code, retryable = "spent_ticket", True
    summary = "Every use of the ticket is spent: look up again."


class NotAllowed(ShoalError):
    status, code = 403, "not_allowed"
    summary = "Only an admin key may do this: make one with 'shoal keys add NAME --admin'."


class JobsDisabled(ShoalError):
    status, code = 403, "jobs_disabled"
    summary = "No jobs are kept here: ask without 'Prefer: respond-async'."


class UrlDisabled(ShoalError):
    status, code = 403, "url_disabled"
    summary = "Pictures are not fetched here: send the image itself."


class UrlNotAllowed(ShoalError):
    status, code = 403, "url_not_allowed"
    summary = "Pictures are not fetched from this host."


class UnknownPath(ShoalError):
    status, code = 404, "unknown_path"
    summary = "There is nothing at this path."


class UnknownModel(ShoalError):
    status, code = 404, "unknown_model"
    summary = "No such model is served here."


class UnknownLabel(UnknownModel):
    code = "unknown_label"
    summary = "The model has no such label."


class UnknownWorker(ShoalError):
    status, code = 404, "unknown_worker"
    summary = "There is no worker of this incarnation; it may have ended."


class UnknownJob(ShoalError):
    status, code = 404, "unknown_job"
    summary = "There is no such job, or not any more."


class MethodNotAllowed(ShoalError):
    status, code = 405, "method_not_allowed"
    summary = "This path does not take this method."


class UploadTimeout(ShoalError):
    status, code, summary = 408, "upload_timeout", "The body did not arrive in time."


class JobCancelled(ShoalError):
    status, code = 410, "job_cancelled"
    summary = "The job was cancelled, so it has no result."


class BodyTooLarge(ShoalError):
    status, code, summary = 413, "body_too_large", "The body is larger than is accepted here."


class UriTooLong(ShoalError):
    status, code, summary = 414, "uri_too_long", "The path and the query are longer than is accepted here."


class UnsupportedImage(ShoalError):
    status, code = 415, "unsupported_image"
    summary = "Not an image of a supported format (JPEG, PNG, WebP, GIF, BMP, TIFF)."


class WrongWorker(ShoalError):
    status, code, retryable = 421, "wrong_worker", True
    summary = "The ticket is for another worker, or for an earlier run of this one: look up again."


class InvalidImage(ShoalError):
    status, code = 422, "invalid_image"
    summary = "The image does not decode: it is damaged or cut short."


class TooManyPixels(InvalidImage):
    code = "too_many_pixels"
    summary = "The image has more pixels than are accepted here."


class Quarantined(InvalidImage):
    code = "quarantined"
    summary = "This image killed the model process each time it was executed, so it is refused here."


class FetchFailed(ShoalError):
    status, code = 424, "fetch_failed"
    summary = "The picture could not be fetched."


class FetchTimeout(FetchFailed):
    code = "fetch_timeout"
    summary = "The picture did not arrive in time."


class QueueFull(ShoalError):
    status, code, retryable = 429, "queue_full", True
    summary = "The queue is full."


class TooManyListeners(ShoalError):
    status, code, retryable = 429, "too_many_listeners", True
    summary = "As many listeners as this gateway takes follow its state already."


class TooManyRequests(ShoalError):
    status, code, retryable = 429, "too_many_requests", True
    summary = "More requests from this address or with this key than are accepted here."


class HeadTooLarge(ShoalError):
    status, code, summary = 431, "head_too_large", "The headers are larger than is accepted here."


class ModelFailed(ShoalError):
    code = "model_failed"
    summary = "The model raised an error on this image."


class ModelCrashed(ShoalError):
    code = "model_crashed"
    summary = "The model process died each time it executed this image."


class BadGateway(ShoalError):
    status, code, retryable = 502, "bad_gateway", True
    summary = "The worker did not answer properly."


class Unavailable(ShoalError):
    status, code, retryable = 503, "unavailable", True
    summary = "Not available now."


class NotReady(Unavailable):
    code = "not_ready"
    summary = "The model is not ready yet."


class Draining(Unavailable):
    code = "draining"
    summary = "This worker is draining and takes no new requests."


class NoWorker(Unavailable):
    code = "no_worker"
    summary = "No worker is ready for this model."


class DeadlineExceeded(ShoalError):
    status, code = 504, "deadline_exceeded"
    summary = "The deadline passed before there was an answer."


class ConnectionFailed(ShoalError):
    """Client side only: no answer came, so it has no HTTP status of its own."""

    status, code, retryable = 0, "connection_failed", True
    summary = "The connection failed before an answer came."


class UntrustedServer(ConnectionFailed):
    code, retryable = "untrusted_server", False
    summary = "A gateway's certificate is not good: name its authority with the client's 'ca', or use the name in it."


def every(root: type[ShoalError] = ShoalError) -> Iterator[type[ShoalError]]:
    """Every class of the tree, parents first."""
    yield root
    for child in root.__subclasses__():
        yield from every(child)


def from_code(code: str, message: str, **kwargs: Any) -> ShoalError:
    """The error of that ``code``; an unknown code (a newer server's) becomes a plain ``ShoalError``."""
    for cls in every():
        if cls.code == code:
            return cls(message, **kwargs)
    return ShoalError(f"{code}: {message}", **kwargs)
