"""An OpenAPI 3.1 document out of typed descriptions: what an interface takes, what it answers, how it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import groupby
from typing import Any, Literal

import msgspec

from shoal import paths
from shoal.documents import Failed, PlainFailed
from shoal.errors import ShoalError
from shoal.version import VERSION

__all__ = ["BINARY", "JSON", "TEXT", "Answer", "Operation", "Parameter", "document", "path_of"]

JSON, TEXT = "application/json", "text/plain"
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
"""The schema of bytes."""

Shape = Any
"""A type that msgspec knows, several of them in a tuple of which one holds, or a JSON Schema as a ``dict``."""

_COMPONENT = "#/components/schemas/{name}"
_VARIABLE = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_EXAMPLE_ID = "4f1c2a7d9be04c65a1d3a4f0c8b7e612"


@dataclass(frozen=True)
class Parameter:
    """What a request may say beside its body. ``type`` has its bounds as ``msgspec.Meta``."""

    name: str
    type: Shape
    about: str
    where: Literal["query", "header", "path"] = "query"
    example: object = None


@dataclass(frozen=True)
class Answer:
    """An answer that is no error: what it holds, by media type, and what its headers say."""

    about: str
    content: Mapping[str, Shape] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """What a method does at a path. ``path`` is aiohttp's, with the regular expressions of its variables.

    ``bodies`` are by media type; ``credentials`` are names of security schemes, one of which will do.
    """

    method: str
    path: str
    summary: str
    tag: str
    answers: Mapping[int, Answer]
    about: str = ""
    parameters: Sequence[Parameter] = ()
    bodies: Mapping[str, Shape] = field(default_factory=dict)
    body_required: bool = True
    errors: Sequence[type[ShoalError]] = ()
    credentials: Sequence[str] = ()

    @property
    def all_errors(self) -> list[type[ShoalError]]:
        """Those that it names, and the one that nothing excludes."""
        return [*dict.fromkeys([*self.errors, ShoalError])]

    @property
    def shapes(self) -> list[Shape]:
        """Every type that it mentions."""
        mentioned = [p.type for p in self.parameters] + list(self.bodies.values())
        mentioned += [shape for answer in self.answers.values() for shape in answer.content.values()]
        return mentioned


def path_of(path: str) -> str:
    """An aiohttp path as OpenAPI writes it: ``/models/{model:[^/]+}`` is ``/models/{model}``."""
    return _VARIABLE.sub(r"{\1}", path)


def document(
    title: str,
    about: str,
    operations: Iterable[Operation],
    *,
    schemes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The OpenAPI document of ``operations``. Raises ``ValueError`` when two of them are for one method and path."""
    listed = list(operations)
    writer = _Writer(listed)
    described: dict[str, dict[str, Any]] = {}
    for operation in listed:
        path, method = path_of(operation.path), operation.method.lower()
        if method in described.setdefault(path, {}):
            raise ValueError(f"{operation.method} {path} is described twice")
        described[path][method] = writer.operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION, "description": about, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in listed)],
        "paths": described,
        "components": {"schemas": writer.components, "securitySchemes": schemes},
    }


class _Writer:
    """Writes operations, with the schemas of all their types at hand."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        shapes = [shape for operation in operations for shape in operation.shapes]
        types = [*_types(shapes), Failed, PlainFailed]
        schemas, components = msgspec.json.schema_components(types, ref_template=_COMPONENT)
        self.components = {name: _as_markdown(schema) for name, schema in sorted(components.items())}
        self._schemas = list(zip(types, schemas, strict=True))

    def operation(self, operation: Operation) -> dict[str, Any]:
        name = re.sub(r"\W+", "_", f"{operation.method.lower()} {path_of(operation.path)}").strip("_")
        written: dict[str, Any] = {"operationId": name, "summary": operation.summary, "tags": [operation.tag]}
        if operation.about:
            written["description"] = operation.about
        if operation.credentials:
            written["security"] = [{credential: []} for credential in operation.credentials]
        if operation.parameters:
            written["parameters"] = [self._parameter(parameter) for parameter in operation.parameters]
        if operation.bodies:
            content = {media: {"schema": self.schema(shape)} for media, shape in operation.bodies.items()}
            written["requestBody"] = {"required": operation.body_required, "content": content}
        answers = {str(status): self._answer(answer) for status, answer in operation.answers.items()}
        written["responses"] = answers | self._failures(operation)
        return written

    def schema(self, shape: Shape) -> dict[str, Any]:
        if isinstance(shape, dict):
            return shape
        if isinstance(shape, tuple):
            return {"anyOf": [self.schema(one) for one in shape]}
        return next(schema for type_, schema in self._schemas if type_ is shape or type_ == shape)

    def _parameter(self, parameter: Parameter) -> dict[str, Any]:
        said = {} if parameter.example is None else {"example": parameter.example}
        return {
            "name": parameter.name,
            "in": parameter.where,
            "required": parameter.where == "path",
            "description": parameter.about,
            "schema": self.schema(parameter.type),
            **said,
        }

    def _answer(self, answer: Answer) -> dict[str, Any]:
        written: dict[str, Any] = {"description": answer.about}
        if answer.content:
            written["content"] = {media: {"schema": self.schema(shape)} for media, shape in answer.content.items()}
        if answer.headers:
            written["headers"] = _headers(answer.headers)
        return written

    def _failures(self, operation: Operation) -> dict[str, Any]:
        """The errors, by status; those of one status are told apart by their codes."""
        is_plain = operation.path.startswith(paths.PLAIN_ERRORS)
        errors = sorted(operation.all_errors, key=lambda error: error.status)
        return {
            str(status): self._failure(list(group), is_plain)
            for status, group in groupby(errors, key=lambda error: error.status)
        }

    def _failure(self, errors: Sequence[type[ShoalError]], is_plain: bool) -> dict[str, Any]:
        codes = [error.code for error in errors]
        narrowed = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        schema = self.schema(PlainFailed) if is_plain else {"allOf": [self.schema(Failed), narrowed]}
        headers: dict[str, Any] = {"Shoal-Code": {"description": "The code.", "schema": {"enum": codes}}}
        if errors[0].status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers |= _headers({"Retry-After": "Seconds until another try may succeed."})
        return {
            "description": " ".join(f"`{error.code}`: {error.summary}" for error in errors),
            "headers": headers,
            "content": {JSON: {"schema": schema, "examples": {e.code: _example(e, is_plain) for e in errors}}},
        }


def _types(shapes: Iterable[Shape]) -> list[Any]:
    found: list[Any] = []
    for shape in shapes:
        found += _types(shape) if isinstance(shape, tuple) else [] if isinstance(shape, dict) else [shape]
    return found


def _as_markdown(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "description": schema.get("description", "").replace("``", "`")}


def _headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": about, "schema": {"type": "string"}} for name, about in headers.items()}


def _example(error: type[ShoalError], is_plain: bool) -> dict[str, Any]:
    return {"summary": error.summary, "value": {"error": error.summary} if is_plain else error().body(_EXAMPLE_ID)}
