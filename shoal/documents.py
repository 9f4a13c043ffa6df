"""The JSON documents that clients are answered with, typed: what is sent is what the interface's description says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shoal.wire import ModelLoad

True_ = Annotated[bool, Meta(extra_json_schema={"const": True})]
False_ = Annotated[bool, Meta(extra_json_schema={"const": False})]
Count = Annotated[int, Meta(ge=0)]
Quantity = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
WorkerState = Literal["ready", "draining", "ejected", "silent", "unreachable", "gone"]
CacheWord = Literal["hit", "miss", "shared", "off"]


class Failure(msgspec.Struct, frozen=True):
    """What went wrong. The ``code`` is stable; the same request may succeed later if it is ``retryable``."""

    code: str
    message: str
    request_id: str
    retryable: bool


class Failed(msgspec.Struct, frozen=True):
    """The answer to a request that failed."""

    success: False_
    error: Failure


class PlainFailed(msgspec.Struct, frozen=True):
    """The answer to a request that failed, as other servers give it; the code is in the header ``Shoal-Code``."""

    error: str


class Live(msgspec.Struct, frozen=True):
    """The process answers."""

    live: True_


class Ready(msgspec.Struct, frozen=True):
    """The process takes requests."""

    ready: True_


class Lookup(msgspec.Struct, frozen=True):
    """Where to upload, and the ticket for it. ``expires_in`` and ``expected_wait`` are in seconds."""

    worker: str
    incarnation: str
    model: str
    version: str
    url: str
    ticket: str
    uses: Annotated[int, Meta(ge=1, le=64)]
    expires_in: Quantity
    max_bytes: Count
    expected_wait: Quantity


class OneWorker(msgspec.Struct, frozen=True):
    """The state of one worker."""

    state: WorkerState


class LoadOfModel(ModelLoad, frozen=True, kw_only=True):
    """The load of a model version on one worker.

    ``expected_wait`` (of an interactive image) and ``seconds_per_answer`` are in seconds, ``utilisation`` is a share.
    """

    expected_wait: Quantity
    images_per_second: Quantity
    utilisation: Quantity
    seconds_per_answer: Quantity


class StatusOfWorker(msgspec.Struct, frozen=True):
    """One worker as a gateway sees it; ``models`` is the load of its model versions."""

    name: str
    incarnation: str
    state: WorkerState
    zone: str
    version: str
    public_url: str | None
    models: dict[str, LoadOfModel]


class Drained(msgspec.Struct, frozen=True):
    """A worker that was told to drain."""

    name: str
    draining: True_


class StatusOfModel(msgspec.Struct, frozen=True):
    """What is published of a model."""

    versions: list[str]
    labels: dict[str, str]
    traffic: dict[str, Quantity]


class Status(msgspec.Struct, frozen=True):
    """Every worker that the gateway uses, how many are ``elsewhere``, for other gateways, and what is published."""

    gateway: str
    version: str
    elsewhere: Count
    workers: list[StatusOfWorker]
    models: dict[str, StatusOfModel]
    refusals_per_second: dict[str, Quantity]


class Need(msgspec.Struct, frozen=True):
    """In workers: how many are kept busy, by what was refused and what waits too, and how many that needs."""

    busy: Quantity
    refused: Quantity
    waiting: Quantity
    workers: Quantity


class Signal(msgspec.Struct, frozen=True):
    """How many workers there are and should be, and why."""

    workers: Count
    desired: Annotated[int, Meta(ge=1)]
    utilisation: Quantity
    images_per_second: Quantity
    queue_depth: Count
    expected_wait: Quantity
    refusals_per_second: Quantity
    need: Need
    reasons: list[str]


class ScaleSignal(msgspec.Struct, frozen=True):
    """What an autoscaler is told, of all models together and of each."""

    target: Share
    window_seconds: Quantity
    total: Signal
    models: dict[str, Signal]


class Prediction(msgspec.Struct, frozen=True):
    """A class, or a thing in the picture. A ``box`` is left, top, right, bottom, in pixels of the upright original."""

    label: str
    index: Count
    probability: Share
    box: tuple[float, float, float, float] | UnsetType = UNSET


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """How an image came to its answer. ``attempt`` and ``batch_size`` of a kept answer are 0."""

    attempt: Count
    batch_size: Count
    cache: CacheWord


class OneAnswer(Provenance, frozen=True, kw_only=True):
    """What the model says of one of many images."""

    predictions: list[Prediction] | UnsetType = UNSET
    embedding: list[float] | UnsetType = UNSET
    outputs: dict[str, Any] | UnsetType = UNSET


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where answers come from. ``digest`` is the SHA-256 of the weights, ``timings`` are milliseconds by stage."""

    success: True_
    model: str
    version: str
    digest: Digest
    worker: str
    request_id: str
    timings: dict[str, Quantity]


class Predicted(Source, frozen=True, kw_only=True):
    """The answer for one image. Which of ``predictions``, ``embedding`` and ``outputs`` there is, is the model's."""

    attempt: Count
    batch_size: Count
    cache: CacheWord
    predictions: list[Prediction] | UnsetType = UNSET
    embedding: list[float] | UnsetType = UNSET
    outputs: dict[str, Any] | UnsetType = UNSET


class ManyPredicted(Source, frozen=True, kw_only=True):
    """The answers for the images of a form, in its order."""

    answers: list[OneAnswer]


class Pair(msgspec.Struct, frozen=True, array_like=True):
    """A label and its probability."""

    label: str
    score: Share


class PictureUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the image is."""

    url: str


class PictureUrls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images are."""

    urls: Annotated[list[str], Meta(min_length=1, max_length=16)]
