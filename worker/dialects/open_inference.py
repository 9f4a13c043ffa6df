"""The Open Inference Protocol, version 2, over REST, with the extensions that NVIDIA Triton's clients use.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data, classification and schedule policy.
JSON in it is strict: NaN and infinities travel as binary data only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from shoal import http
from shoal.errors import EmptyBody, InvalidRequest, ModelFailed
from shoal.wire import ModelCard, Output, Tensor
from worker.asking import Wanted
from worker.dialects import Item, Received, Target, arrays
from worker.dialects.arrays import DATATYPES, Values
from worker.receiving import Receiver
from worker.submissions import Answered
from worker.timings import Timings

__all__ = ["INFER", "Infer"]

Parameters = dict[str, str | int | float | bool]

_LARGE = 64 * 1024  # bytes of JSON that take longer to read than a thread to wake
_LONGEST_ID = 1024
_MOST_CLASSES = 1_000_000
_LEAST_BULK = 2
_MICROSECONDS = 1_000_000
_REFUSED = {
    "sequence_id": "Sequences are not served here",
    "shared_memory_region": "Shared memory is not served here",
}


class _RequestInput(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: Any = msgspec.UNSET


class _RequestOutput(msgspec.Struct):
    name: str
    parameters: Parameters = {}


class _Request(msgspec.Struct):
    inputs: list[_RequestInput]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[_RequestOutput] | None = None


_requests = msgspec.json.Decoder(_Request)


@dataclass(frozen=True)
class _Read:
    """What a body says. ``binary`` are the outputs to be sent as raw bytes; ``by_default``, those not named as well."""

    items: Sequence[Item]
    outputs: tuple[Output, ...] = ()
    binary: frozenset[str] = frozenset()
    by_default: bool = False
    id: str = ""
    priority: int = 0
    timeout: int = 0


@dataclass(frozen=True)
class Infer:
    """``POST /v2/models/{model}[/versions/{version}]/infer``; once a body is read, one that knows what it says."""

    read: _Read = _Read(())
    takes_urls = False

    def target(self, request: web.Request) -> Target:
        return Target(request.match_info["model"], request.match_info.get("version"))

    def renders(self, request: web.Request, card: ModelCard) -> bool:
        return False

    async def receive(self, request: web.Request, wanted: Wanted, receiver: Receiver, timings: Timings) -> Received:
        started = time.monotonic()
        length = _json_length(request)
        body = await receiver.read_body(request, wanted, timings)
        reading = partial(_read, body, length, wanted.card, receiver.most)
        read = await receiver.in_thread(reading) if len(body) > _LARGE else reading()
        timings.mark("read")
        deadline = wanted.deadline
        if read.timeout:
            deadline = min(deadline, started + read.timeout / _MICROSECONDS)
        return Received(
            read.items,
            replace(
                wanted,
                dialect=Infer(replace(read, items=())),
                outputs=read.outputs,
                deadline=deadline,
                priority="bulk" if read.priority >= _LEAST_BULK else wanted.priority,
            ),
        )

    def response(
        self, answers: Sequence[Answered], wanted: Wanted, timings: Timings, headers: Mapping[str, str], *, worker: str
    ) -> web.Response:
        document: dict[str, Any] = {"model_name": wanted.card.model, "model_version": wanted.card.version}
        if self.read.id:
            document["id"] = self.read.id
        blobs: list[bytes] = []
        document["outputs"] = [self._written(name, values, blobs) for name, values in _outputs(answers, wanted)]
        text = msgspec.json.encode(document)
        if not blobs:
            return web.Response(body=text, headers=headers, content_type="application/json")
        return web.Response(
            body=b"".join([text, *blobs]),
            headers={**headers, http.JSON_LENGTH: str(len(text))},
            content_type="application/octet-stream",
        )

    def _written(self, name: str, values: Values, blobs: list[bytes]) -> dict[str, Any]:
        """An output of the answer; its raw bytes, if it is to have some, are added to ``blobs``."""
        about: dict[str, Any] = {
            "name": name,
            "datatype": arrays.datatype_of(values.dtype.name),
            "shape": list(values.shape),
        }
        if self.read.by_default or name in self.read.binary:
            blobs.append(arrays.to_bytes(values))
            return {**about, "parameters": {"binary_data_size": len(blobs[-1])}}
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidRequest(f"Output {name!r} is not finite, which JSON cannot say: ask for it as binary data.")
        return {**about, "data": arrays.to_json(values.reshape(-1))}


INFER = Infer()


def _json_length(request: web.Request) -> int | None:
    """How much of the body is JSON; None when all of it is. Raises ``InvalidRequest``."""
    text = request.headers.get(http.JSON_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InvalidRequest(f"{http.JSON_LENGTH} is a number of bytes.")
    return int(text)


def _read(body: bytes, length: int | None, card: ModelCard, most: int) -> _Read:
    """What a body of that many bytes of JSON asks. Raises ``InvalidRequest``."""
    if not body:
        raise EmptyBody("The body is empty.")
    if length == 0:
        return _Read([body])
    if length is not None and length > len(body):
        raise InvalidRequest(f"{http.JSON_LENGTH} is {length}, and the body has {len(body)} bytes.")
    arrays.see_size(body[:length], card, most=most)
    request = _parsed(body[:length])
    given = request.parameters
    _refuse(given)
    outputs, binary = _wanted_outputs(request, card)
    return _Read(
        items=_items(request, memoryview(body)[len(body) if length is None else length :], card, most),
        outputs=outputs,
        binary=binary,
        by_default=_switch(given, "binary_data_output") and not request.outputs,
        id=request.id,
        priority=_number(given, "priority"),
        timeout=_number(given, "timeout"),
    )


def _parsed(text: bytes) -> _Request:
    try:
        request = _requests.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request is not one of the Open Inference Protocol: {error}.") from error
    if len(request.id) > _LONGEST_ID:
        raise InvalidRequest(f"An id has at most {_LONGEST_ID} characters.")
    return request


def _items(request: _Request, raw: memoryview, card: ModelCard, most: int) -> list[Item]:
    names = {card.input.name} | ({card.tensor.name} if card.tensor else set())
    for given in request.inputs:
        if given.name not in names:
            raise InvalidRequest(f"The model {card.key} has no input {given.name!r}; it has {_listed(names)}.")
    if len(request.inputs) != 1:
        raise InvalidRequest(f"The model {card.key} takes one input, not {len(request.inputs)}.")
    return arrays.items_of(request.inputs[0].name, _values(request.inputs[0], raw), card, most=most)


def _values(given: _RequestInput, raw: memoryview) -> Values:
    name, shape = given.name, given.shape
    _refuse(given.parameters)
    dtype = DATATYPES.get(given.datatype)
    if dtype is None:
        raise InvalidRequest(f"Input {name!r}: {given.datatype!r} is no datatype; there are {_listed(DATATYPES)}.")
    size = given.parameters.get("binary_data_size")
    if size is None:
        if raw:
            raise InvalidRequest(f"{len(raw)} bytes follow the JSON, and no input has a binary_data_size.")
        if given.data is msgspec.UNSET:
            raise InvalidRequest(f"Input {name!r} has neither data nor binary_data_size.")
        return arrays.fitted(name, arrays.from_json(name, given.data, dtype), shape)
    if given.data is not msgspec.UNSET:
        raise InvalidRequest(f"Input {name!r} has both data and binary_data_size.")
    if size != len(raw) or isinstance(size, bool):
        raise InvalidRequest(f"Input {name!r}: its binary_data_size is {size}, and {len(raw)} bytes follow the JSON.")
    return arrays.from_bytes(name, raw, dtype, shape)


def _wanted_outputs(request: _Request, card: ModelCard) -> tuple[tuple[Output, ...], frozenset[str]]:
    """The outputs that are asked for, none of them for all, and which as binary data."""
    by_default = _switch(request.parameters, "binary_data_output")
    known = {spec.name for spec in card.outputs}
    wanted: dict[str, Output] = {}
    binary: set[str] = set()
    for one in request.outputs or ():
        name = one.name
        _refuse(one.parameters)
        if known and name not in known:
            raise InvalidRequest(f"The model {card.key} has no output {name!r}; it has {_listed(known)}.")
        if name in wanted:
            raise InvalidRequest(f"Output {name!r} is asked for twice.")
        classes = _number(one.parameters, "classification")
        if classes > _MOST_CLASSES:
            raise InvalidRequest(f"Output {name!r}: classification is at most {_MOST_CLASSES}.")
        wanted[name] = Output(name, classes)
        if _switch(one.parameters, "binary_data", default=by_default):
            binary.add(name)
    return tuple(wanted.values()), frozenset(binary)


def _refuse(parameters: Parameters) -> None:
    """What asks for something that is not there, and would have another meaning if it were passed over."""
    for name, words in _REFUSED.items():
        if name in parameters:
            raise InvalidRequest(f"{words}: leave out {name}.")


def _number(parameters: Parameters, name: str) -> int:
    """A whole number from 0, and 0 when it is not given. Raises ``InvalidRequest``."""
    value = parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InvalidRequest(f"The parameter {name} is a whole number from 0.")
    return value


def _switch(parameters: Parameters, name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"The parameter {name} is true or false.")
    return value


def _outputs(answers: Sequence[Answered], wanted: Wanted) -> list[tuple[str, Values]]:
    """The batch of each output, in the order in which they were asked for, or that of the model."""
    names = [output.name for output in wanted.outputs or ()] or list(answers[0].reply.outputs)
    return [(name, arrays.joined(name, [_row(answered, name) for answered in answers])) for name in names]


def _row(answered: Answered, name: str) -> Tensor:
    try:
        return answered.reply.outputs[name]
    except KeyError:
        raise ModelFailed(f"The model gave no output {name!r}.") from None


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
