"""Shoal's own predictions: a picture as the body, in a form, or by its URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from shoal.descriptions import SWITCH, TIMEOUT, jobs
from shoal.documents import ManyPredicted, Pair, PictureUrl, PictureUrls, Predicted
from shoal.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    Draining,
    EmptyBody,
    FetchFailed,
    FetchTimeout,
    InvalidImage,
    InvalidOption,
    InvalidRequest,
    InvalidUrl,
    JobsDisabled,
    MissingImage,
    ModelCrashed,
    ModelFailed,
    NotReady,
    Quarantined,
    QueueFull,
    ShoalError,
    TooManyPixels,
    UnknownModel,
    UnsupportedImage,
    UploadTimeout,
    UrlDisabled,
    UrlNotAllowed,
    WrongTask,
    WrongWorker,
)
from shoal.openapi import BINARY, JSON, Answer, Operation, Parameter, Shape

__all__ = ["IMAGES", "IMAGE_ERRORS", "MODEL", "VERSION", "predictions"]

IMAGES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "application/octet-stream")
_FORM = {
    "type": "object",
    "properties": {"image": {"type": "array", "items": BINARY, "minItems": 1, "maxItems": 16}},
    "required": ["image"],
}
_BODIES: dict[str, Shape] = {
    **dict.fromkeys(IMAGES, BINARY),
    "multipart/form-data": _FORM,
    JSON: (PictureUrl, PictureUrls),
}
_HEADERS = {
    "Server-Timing": "Milliseconds by stage.",
    "Shoal-Cache": "Whether a kept answer was used, for each image.",
    "X-Request-ID": "The id of the request, as it was sent or a new one.",
}

MODEL = Parameter("model", str, "The model; by default the first one.")
VERSION = Parameter("version", str, "Its version; by default the one that its traffic is for.")

_OPTIONS = (
    Parameter("top_k", Annotated[int, Meta(ge=1, le=1000)], "How many classes, of a classifier; 5 by default."),
    Parameter("cache", SWITCH, "`0`: executed for this request, whatever answer is kept."),
    TIMEOUT,
)
_RENDER = Parameter("render", SWITCH, "`1`: the picture with its boxes drawn, of a model that finds boxes.")

IMAGE_ERRORS: tuple[type[ShoalError], ...] = (
    InvalidRequest,
    InvalidOption,
    EmptyBody,
    WrongTask,
    UnknownModel,
    UploadTimeout,
    BodyTooLarge,
    UnsupportedImage,
    WrongWorker,
    InvalidImage,
    TooManyPixels,
    Quarantined,
    QueueFull,
    ModelFailed,
    ModelCrashed,
    NotReady,
    DeadlineExceeded,
)
_ERRORS = (*IMAGE_ERRORS, MissingImage, InvalidUrl, UrlDisabled, UrlNotAllowed, FetchFailed, FetchTimeout)

_ABOUT = (
    "The body is the image itself, of whatever `Content-Type`; or a form with one or several files in the field "
    "`image` (or `data`); or JSON that says where the images are. A model's task may have more options than `top_k`: "
    "numbers in the query, by their names."
)


def predictions(
    parameters: Sequence[Parameter],
    errors: Sequence[type[ShoalError]],
    credentials: Sequence[str],
    answers: dict[int, Answer] | None = None,
) -> tuple[Operation, ...]:
    """``POST /predict`` and ``POST /``, with what a gateway or a worker has beyond what they have in common."""
    common: dict[str, Any] = {
        "tag": "predictions",
        "about": _ABOUT,
        "bodies": _BODIES,
        "errors": (*_ERRORS, *errors),
        "credentials": credentials,
    }
    document = (Predicted, ManyPredicted)
    whole = Answer("The prediction, or those of all images.", {JSON: document, "image/jpeg": BINARY}, _HEADERS)
    pairs = Answer("The classes, or those of each image.", {JSON: (list[Pair], list[list[Pair]])}, _HEADERS)
    return (
        Operation(
            "POST",
            "/predict",
            "What the model says of an image",
            answers={200: whole, 202: jobs.ACCEPTED, **(answers or {})},
            parameters=(*parameters, *_OPTIONS, _RENDER, *jobs.ASKING),
            **(common | {"errors": (*common["errors"], JobsDisabled, Draining)}),
        ),
        Operation(
            "POST",
            "/",
            "The classes of an image, as [label, score]",
            answers={200: pairs, **(answers or {})},
            parameters=(*parameters, *_OPTIONS),
            **common,
        ),
    )
