"""The operations of TensorFlow Serving's REST API, and of KServe's first protocol, and their documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shoal import paths
from shoal import tensorflow_serving as said
from shoal.descriptions import CACHE, TIMEOUT, question, refused, variables
from shoal.descriptions.native import IMAGE_ERRORS
from shoal.errors import BadGateway, NotReady, ShoalError, UnknownLabel, UnknownModel
from shoal.openapi import JSON, Answer, Operation, Parameter

__all__ = ["operations"]


class Rows(msgspec.Struct, frozen=True):
    """An instance for each image: `{"b64": …}`, its pixels, or the network's own input; or an object of that."""

    instances: list[Any]
    signature_name: Literal["serving_default", ""] | UnsetType = UNSET


class Columns(msgspec.Struct, frozen=True):
    """The whole batch of the input, or an object of it."""

    inputs: Any
    signature_name: Literal["serving_default", ""] | UnsetType = UNSET


class RowsAnswered(msgspec.Struct, frozen=True):
    """A prediction for each instance; of several outputs it is an object."""

    predictions: list[Any]


class ColumnsAnswered(msgspec.Struct, frozen=True):
    """The batch of the output; of several it is an object."""

    outputs: Any


class ModelNames(msgspec.Struct, frozen=True):
    """The names of the models."""

    models: list[str]


class VersionError(msgspec.Struct, frozen=True):
    """Why a version is not available."""

    error_code: Literal["OK", "INTERNAL"]
    error_message: str


class VersionStatus(msgspec.Struct, frozen=True):
    """How a version is."""

    version: str
    state: Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
    status: VersionError


class ModelStatus(msgspec.Struct, frozen=True):
    """How a model is: TensorFlow Serving's `model_version_status`, and KServe's `name` and `ready`."""

    name: str
    ready: bool
    model_version_status: list[VersionStatus]


class ModelSpec(msgspec.Struct, frozen=True):
    """Which version is described."""

    name: str
    signature_name: str
    version: str


class Signatures(msgspec.Struct, frozen=True):
    """The signature, as TensorFlow's `SignatureDefMap`."""

    signature_def: dict[str, Any]


class SignatureMetadata(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    model_spec: ModelSpec
    metadata: Signatures


_TAG = "TensorFlow Serving"


def operations(
    parameters: Sequence[Parameter],
    predict_errors: Sequence[type[ShoalError]],
    question_errors: Sequence[type[ShoalError]],
    credentials: Sequence[str],
) -> tuple[Operation, ...]:
    """All of them, with what a gateway or a worker has beyond what they have in common."""

    def ask(path: str, summary: str, document: Any, *errors: type[ShoalError]) -> Operation:
        all_errors = (*question_errors, *errors, NotReady, *_of_label(path))
        return question(path, summary, _TAG, document, errors=all_errors, credentials=credentials)

    def predict(path: str) -> Operation:
        return Operation(
            "POST",
            f"{path}:predict",
            "Predict, by rows or by columns",
            _TAG,
            {200: Answer("In rows as in columns: as it was asked.", {JSON: (RowsAnswered, ColumnsAnswered)})},
            parameters=(*variables(path), *parameters, TIMEOUT, CACHE),
            bodies={JSON: (Rows, Columns)},
            errors=(*IMAGE_ERRORS, *predict_errors, *_of_label(path)),
            credentials=credentials,
        )

    def refuse(path: str) -> Operation:
        summary = "Refused: models answer `:predict`"
        return refused(path, summary, _TAG, errors=question_errors, credentials=credentials)

    return (
        *map(predict, paths.TENSORFLOW_SERVING),
        ask(said.MODELS, "The models", ModelNames),
        *(ask(path, "How a model's versions are", ModelStatus, UnknownModel) for path in said.STATUS),
        *(ask(path, "About a model", SignatureMetadata, UnknownModel, BadGateway) for path in said.METADATA),
        *map(refuse, said.REFUSED),
    )


def _of_label(path: str) -> tuple[type[ShoalError], ...]:
    return (UnknownLabel,) if "{label:" in path else ()
