"""The Open Inference Protocol's operations, and the documents that travel in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shoal import open_inference, paths
from shoal.descriptions import CACHE, TIMEOUT, question, refused, variables
from shoal.descriptions.native import IMAGE_ERRORS
from shoal.documents import Count, Live, Ready
from shoal.errors import BadGateway, BodyTooLarge, InvalidRequest, NotReady, ShoalError, UnknownModel, UploadTimeout
from shoal.openapi import BINARY, JSON, Answer, Operation, Parameter

__all__ = ["operations"]

Words = dict[str, str | int | float | bool]
Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]


class TensorGiven(msgspec.Struct, frozen=True):
    """An input, as ``data`` (nested or flat, row-major) or as ``binary_data_size`` bytes after the JSON."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Words | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class TensorWanted(msgspec.Struct, frozen=True):
    """An output that is asked for; ``classification`` and ``binary_data`` are among its ``parameters``."""

    name: str
    parameters: Words | UnsetType = UNSET


class InferRequest(msgspec.Struct, frozen=True):
    """What is asked of a model. ``priority`` and ``timeout`` (microseconds) are among the ``parameters``."""

    inputs: list[TensorGiven]
    id: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET
    parameters: Words | UnsetType = UNSET
    outputs: list[TensorWanted] | UnsetType = UNSET


class TensorAnswered(msgspec.Struct, frozen=True):
    """An output, flat and row-major, or as ``binary_data_size`` bytes after the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Words | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class Inferred(msgspec.Struct, frozen=True):
    """What the model answers."""

    model_name: str
    model_version: str
    outputs: list[TensorAnswered]
    id: str | UnsetType = UNSET


class ServerMetadata(msgspec.Struct, frozen=True):
    """Who answers, and which extensions of the protocol."""

    name: str
    version: str
    extensions: list[str]


class Names(msgspec.Struct, frozen=True):
    """The names of the models."""

    models: list[str]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or an output; a side of -1 varies."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(msgspec.Struct, frozen=True):
    """A model that is ready."""

    name: str
    ready: bool


class IndexRequest(msgspec.Struct, frozen=True):
    """With ``ready``, only those that are."""

    ready: bool | UnsetType = UNSET


class IndexEntry(msgspec.Struct, frozen=True):
    """A model version, and why it is not ready."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class Counted(msgspec.Struct, frozen=True):
    """How often, and nanoseconds in all."""

    count: Count
    ns: Count


class InferStatistics(msgspec.Struct, frozen=True):
    """Requests by outcome and by stage."""

    success: Counted
    fail: Counted
    queue: Counted
    compute_input: Counted
    compute_infer: Counted
    compute_output: Counted
    cache_hit: Counted
    cache_miss: Counted


class BatchStatistics(msgspec.Struct, frozen=True):
    """Executions of one batch size."""

    batch_size: Count
    compute_infer: Counted


class ModelStatistics(msgspec.Struct, frozen=True):
    """What was counted of a model version. ``last_inference`` is in milliseconds since the epoch."""

    name: str
    version: str
    last_inference: Count
    inference_count: Count
    execution_count: Count
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class Statistics(msgspec.Struct, frozen=True):
    """What was counted."""

    model_stats: list[ModelStatistics]


_TAG = "Open Inference Protocol"
_LENGTH = Parameter(
    "Inference-Header-Content-Length",
    Annotated[int, Meta(ge=0)],
    "How many bytes of the body are JSON; raw tensors follow. `0`: the body is one encoded image.",
    "header",
)
_ABOUT = (
    "Without `Inference-Header-Content-Length` the body is JSON. An encoded image is a BYTES tensor of one element, or "
    "the whole body when that header is `0`."
)


def operations(
    parameters: Sequence[Parameter],
    infer_errors: Sequence[type[ShoalError]],
    question_errors: Sequence[type[ShoalError]],
    credentials: Sequence[str],
) -> tuple[Operation, ...]:
    """All of them, with what a gateway or a worker has beyond what they have in common."""

    def ask(path: str, summary: str, document: Any, *errors: type[ShoalError]) -> Operation:
        all_errors = (*question_errors, *errors)
        return question(path, summary, _TAG, document, errors=all_errors, credentials=credentials)

    def probe(path: str, summary: str, document: Any, *errors: type[ShoalError]) -> Operation:
        return Operation("GET", path, summary, _TAG, {200: Answer("Yes.", {JSON: document})}, errors=errors)

    def infer(path: str) -> Operation:
        return Operation(
            "POST",
            path,
            "Infer",
            _TAG,
            {200: Answer("The outputs.", {JSON: Inferred, "application/octet-stream": BINARY})},
            about=_ABOUT,
            parameters=(*variables(path), *parameters, TIMEOUT, _LENGTH, CACHE),
            bodies={JSON: InferRequest, "application/octet-stream": BINARY},
            errors=(*IMAGE_ERRORS, *infer_errors),
            credentials=credentials,
        )

    def load(path: str) -> Operation:
        summary = "Refused: models are published with `shoal models`"
        return refused(path, summary, _TAG, errors=question_errors, credentials=credentials)

    said, of_model = open_inference, (UnknownModel, NotReady, BadGateway)
    index = Operation(
        "POST",
        said.INDEX,
        "Every model version, or those that are ready",
        _TAG,
        {200: Answer("The index.", {JSON: list[IndexEntry]})},
        bodies={JSON: IndexRequest},
        body_required=False,
        errors=(*question_errors, InvalidRequest, BodyTooLarge, UploadTimeout, NotReady),
        credentials=credentials,
    )
    return (
        *(infer(path) for path in paths.OPEN_INFERENCE),
        ask(said.SERVER, "About the server", ServerMetadata),
        probe(said.LIVE, "Whether the server answers", Live),
        probe(said.READY, "Whether a model is ready", Ready, *_gone(question_errors), NotReady),
        ask(said.MODELS, "The models", Names, NotReady),
        *(ask(path, "About a model", ModelMetadata, *of_model) for path in said.METADATA),
        *(ask(path, "Whether a model is ready", ModelReady, *of_model) for path in said.READY_MODEL),
        *(ask(path, "What was counted", Statistics, *of_model) for path in said.STATISTICS),
        index,
        *map(load, said.LOADING),
    )


def _gone(errors: Sequence[type[ShoalError]]) -> tuple[type[ShoalError], ...]:
    """Those of a server that is there, and not ready."""
    return tuple(error for error in errors if error.status == NotReady.status)
