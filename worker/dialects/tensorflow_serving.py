"""TensorFlow Serving's REST API: ``:predict`` with rows (``instances``) or columns (``inputs``).

https://www.tensorflow.org/tfx/serving/api_rest. As there, NaN and Infinity are words of its JSON, both ways, and bytes
are ``{"b64": ...}``. docs/tensorflow-serving.md says what is taken for what.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import web

from shoal import http
from shoal.errors import EmptyBody, InvalidRequest
from shoal.wire import ModelCard
from worker.asking import Wanted
from worker.dialects import Item, Received, Target, arrays
from worker.receiving import Receiver
from worker.submissions import Answered
from worker.timings import Timings

__all__ = ["PREDICT", "SIGNATURE", "Predict"]

SIGNATURE = "serving_default"

_BYTES = "_bytes"  # the end of a name whose values are bytes
_LARGE = 64 * 1024  # bytes of JSON that take longer to read than a thread to wake


@dataclass(frozen=True)
class Predict:
    """``POST /v1/models/{model}[/versions/{version}|/labels/{label}]:predict``; once a body is read, one that knows
    whether it came in rows."""

    in_rows: bool = True
    takes_urls = False

    def target(self, request: web.Request) -> Target:
        said = request.match_info
        return Target(said["model"], said.get("version"), said.get("label"))

    def renders(self, request: web.Request, card: ModelCard) -> bool:
        return False

    async def receive(self, request: web.Request, wanted: Wanted, receiver: Receiver, timings: Timings) -> Received:
        body = await receiver.read_body(request, wanted, timings)
        reading = partial(_read, body, wanted.card, receiver.most)
        items, in_rows = await receiver.in_thread(reading) if len(body) > _LARGE else reading()
        return Received(items, replace(wanted, dialect=Predict(in_rows), outputs=()))

    def response(
        self, answers: Sequence[Answered], wanted: Wanted, timings: Timings, headers: Mapping[str, str], *, worker: str
    ) -> web.Response:
        if self.in_rows:
            document = {"predictions": [_named(_row(answered)) for answered in answers]}
        else:
            document = {"outputs": _named(_columns(answers))}
        return http.json_response(document, headers=headers)


PREDICT = Predict()


# What came


def _read(body: bytes, card: ModelCard, most: int) -> tuple[list[Item], bool]:
    """The items of a body, and whether they came in rows. Raises ``InvalidRequest``."""
    arrays.see_size(body, card, most=most)
    document = _parsed(body)
    signature = document.get("signature_name", SIGNATURE)
    if signature not in (SIGNATURE, ""):
        raise InvalidRequest(f"The model {card.key} has no signature {signature!r}; it has {SIGNATURE!r}.")
    match document:
        case {"instances": _, "inputs": _}:
            raise InvalidRequest("The body has 'instances' (rows) or 'inputs' (columns), not both.")
        case {"instances": list() as rows}:
            name, values = _of_rows(rows)
        case {"instances": _}:
            raise InvalidRequest("'instances' is a list, of one entry for each image.")
        case {"inputs": columns}:
            name, values = _only(columns) if isinstance(columns, dict) else (None, columns)
        case _:
            raise InvalidRequest("The body has neither 'instances' (rows) nor 'inputs' (columns).")
    return _items(name, values, card, most), "instances" in document


def _parsed(body: bytes) -> dict[str, Any]:
    if not body:
        raise EmptyBody("The body is empty.")
    try:
        document = json.loads(body, object_hook=_without_base64)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidRequest("The body is a JSON object with 'instances' or 'inputs'.")
    return document


def _without_base64(found: dict[str, Any]) -> dict[str, Any] | bytes:
    """An object of JSON, or the bytes that it stands for."""
    if found.keys() != {"b64"}:
        return found
    try:
        return base64.b64decode(found["b64"], validate=True)
    except (TypeError, binascii.Error, ValueError) as error:
        raise InvalidRequest(f"A value of 'b64' is not Base64: {error}.") from error


def _of_rows(rows: Sequence[Any]) -> tuple[str | None, list[Any]]:
    """The name of the input, if it is given, and its values, one for each row."""
    if not any(isinstance(row, dict) for row in rows):
        return None, list(rows)
    named = [_only(row) if isinstance(row, dict) else (None, row) for row in rows]
    names = {name for name, _ in named}
    if len(names) != 1:
        raise InvalidRequest("Every instance has the same input.")
    return names.pop(), [values for _, values in named]


def _only(inputs: dict[str, Any]) -> tuple[str, Any]:
    """The one input, by its name."""
    if len(inputs) != 1:
        raise InvalidRequest(f"A model takes one input; these are {', '.join(map(repr, inputs)) or 'none'}.")
    ((name, values),) = inputs.items()
    return name, values


def _items(name: str | None, values: Any, card: ModelCard, most: int) -> list[Item]:
    shape, leaf = _outline(values)
    known = {card.input.name} | ({card.tensor.name} if card.tensor else set())
    is_bytes = isinstance(leaf, bytes)
    if name is not None and name not in known and not (is_bytes and name.endswith(_BYTES)):
        raise InvalidRequest(f"The model {card.key} has no input {name!r}; it has {', '.join(sorted(known))}.")
    if isinstance(leaf, str):
        raise InvalidRequest('An image is {"b64": "..."}, or its pixels as numbers, not a string.')
    dtype = "object" if is_bytes else _dtype(name, shape, card)
    called = name or (card.tensor.name if card.tensor and dtype == card.tensor.dtype else card.input.name)
    return arrays.items_of(called, arrays.from_json(called, values, dtype), card, most=most)


def _outline(values: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of one row and its first value, by the first entry of each level."""
    shape: list[int] = []
    while isinstance(values, list):
        shape.append(len(values))
        values = values[0] if values else None
    return tuple(shape[1:]), values


def _dtype(name: str | None, row: tuple[int, ...], card: ModelCard) -> str:
    """What numbers are: values of the network's own input, or pixels from 0 to 255 where only an image fits.

    Only an image fits where the network takes no arrays, where the image's input is named and is not the network's as
    well, and where rows have the image's shape and not the network's.
    """
    own, image = card.tensor, (card.input.height, card.input.width, card.input.channels)
    if own is None or (name == card.input.name != own.name):
        return "uint8"
    fits = len(row) == len(own.shape) and all(wants in (-1, has) for has, wants in zip(row, own.shape, strict=True))
    return "uint8" if row == image and not fits else own.dtype


# What is answered


def _row(answered: Answered) -> dict[str, Any]:
    """The outputs for one item, without the dimension of the batch."""
    outputs = answered.reply.outputs
    return {name: _json(name, arrays.joined(name, [output]))[0] for name, output in outputs.items()}


def _columns(answers: Sequence[Answered]) -> dict[str, Any]:
    """The outputs for all items together."""
    names = answers[0].reply.outputs
    return {name: _json(name, arrays.joined(name, [a.reply.outputs[name] for a in answers])) for name in names}


def _named(outputs: Mapping[str, Any]) -> Any:
    """One output goes without its name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)


def _json(name: str, values: arrays.Values) -> Any:
    if values.dtype.kind == "O" and name.endswith(_BYTES):
        return _base64(values.tolist())
    return arrays.to_json(values)


def _base64(values: Any) -> Any:
    if isinstance(values, list):
        return [_base64(value) for value in values]
    return {"b64": base64.b64encode(values).decode()}
